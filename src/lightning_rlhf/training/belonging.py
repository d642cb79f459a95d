"""What a checkpoint belongs to: its base, its settings, and the versions that wrote it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pytorch_lightning import Trainer
from torch import nn

from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.training import hparams

log = logging.getLogger(f"pytorch_lightning.{__name__}")  # Lightning prints its messages
KEY = "belongs_to"
PACKAGES = ("lightning-rlhf", "torch", "pytorch-lightning", "transformers", "peft", "bitsandbytes")
TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision")
PLACES = {"name_or_path", "adapters", "reference_cache", "journal", "_class_path", "_instantiator"}
LONG = 500  # characters; rows that were given as a list are not settings


def stamp(backbone: Backbone, trainer: Trainer | None) -> dict[str, Any]:
    """Describe what a checkpoint belongs to, in types that a ``weights_only`` load accepts."""
    return {
        "base": base_of(backbone),
        "versions": versions(),
        "data": data_settings(getattr(trainer, "datamodule", None)),
        "trainer": trainer_settings(trainer),
    }


def base_of(backbone: Backbone) -> dict[str, str | None]:
    """Name the frozen base, digest its weights, and say how they are held.

    The digest is computed once. A model trained whole has none: its weights are the checkpoint's.
    """
    if backbone.lora is None or not backbone.is_loaded:
        return {"name": backbone.name_or_path, "digest": None, "held": None}
    found: dict[str, str | None] | None = backbone.__dict__.get("_belongs_to")
    if found is None:
        weights = backbone.forward_weights(POLICY)
        frozen = {name: w for name, w in weights.items() if ".lora_" not in name}
        device = backbone.base.device.type
        found = {
            "name": backbone.name_or_path,
            "digest": weights_digest(frozen).hex(),
            "held": f"{backbone.quantization or backbone.base.dtype} on {device}",
        }
        backbone.__dict__["_belongs_to"] = found
    return found


def versions() -> dict[str, str]:
    """Versions of the packages on which a run's bits depend."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def data_settings(data: Any) -> dict[str, Any]:
    """Settings of a run's data module, rows left out."""
    return _short(hparams.describe(data, leave_out=("tokenizer",))) if data is not None else {}


def trainer_settings(trainer: Trainer | None) -> dict[str, Any]:
    """Settings of a Trainer on which a step depends."""
    return {name: getattr(trainer, name) for name in TRAINER} if trainer is not None else {}


def check(checkpoint: dict[str, Any], backbone: Backbone, name: str) -> None:
    """Refuse the checkpoint of another base.

    Args:
        checkpoint: loaded.
        backbone: loaded.
        name: of the checkpoint's file.

    Raises:
        ValueError: the base's weights are others than those it was trained on.
    """
    there, here = checkpoint.get(KEY, {}).get("base", {}), base_of(backbone)
    if not there.get("digest") or not here["digest"] or there.get("held") != here["held"]:
        return  # the same weights differ in bits where they are held otherwise
    if there["digest"] != here["digest"]:
        raise ValueError(
            f"{name} is of another base model: it was trained on {there['name']}, and "
            f"{here['name']} has other weights; resume with the base it was trained with"
        )


def differences(
    checkpoint: dict[str, Any], module: nn.Module, trainer: Trainer, data: Any
) -> list[str]:
    """List the settings in which a checkpoint's run differs from this one."""
    stored = checkpoint.get(KEY, {})
    pairs = [
        ("model", checkpoint.get("hyper_parameters", {}), hparams.describe(module)),
        ("data", stored.get("data", {}), data_settings(data)),
        ("trainer", stored.get("trainer", {}), trainer_settings(trainer)),
    ]
    return [
        f"{where} (there {there!r}, here {here!r})"
        for group, old, new in pairs
        for where, there, here in _differing(group, _short(old), _short(new))
    ]


def tell_differences(checkpoint: dict[str, Any], module: Any, trainer: Trainer) -> None:
    """Log one line for other settings, and one for other versions or another form of the base."""
    name, stored = str(trainer.ckpt_path or "the checkpoint"), checkpoint.get(KEY, {})
    data = trainer.datamodule  # type: ignore[attr-defined]
    if KEY in checkpoint and (others := differences(checkpoint, module, trainer, data)):
        log.warning("%s is of a run with other settings: %s", name, ", ".join(others))
    here = versions()
    others = [
        f"{package} {old} (here {here.get(package, 'none')})"
        for package, old in stored.get("versions", {}).items()
        if here.get(package) != old
    ]
    held, now = stored.get("base", {}).get("held"), base_of(module.backbone)["held"]
    if held and now and held != now:
        others.append(f"its base in {held} (here {now})")
    if others:
        log.warning(
            "%s was written with %s: the run goes on, but may not end in the same bits",
            name,
            ", ".join(others),
        )


def _short(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if len(json.dumps(v, default=str)) <= LONG}


def _differing(where: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield each setting that both sides have and that differs, by its dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() & new.keys()) - PLACES, key=str):
            yield from _differing(f"{where}.{key}", old[key], new[key])
    elif old != new and not (isinstance(old, float) and isinstance(new, float) and old != old):
        yield where, old, new
