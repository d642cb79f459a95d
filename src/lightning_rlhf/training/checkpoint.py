"""Save and restore a run's roles and random generators; refuse checkpoints that do not fit."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer

from lightning_rlhf.models.backbone import REFERENCE, Backbone
from lightning_rlhf.training.checkpoint_io import local_file, peek


def keep_roles(checkpoint: dict[str, Any], prefix: str, backbone: Backbone) -> None:
    """Drop the frozen base from a checkpoint; a 4-bit base could not be loaded again.

    Args:
        checkpoint: Lightning's, changed in place as its hook requires.
        prefix: of the backbone's names in its state dict.
        backbone: its roles are kept.
    """
    state = checkpoint["state_dict"]
    for key in [k for k in state if k.startswith(prefix)]:
        if not backbone.is_saved(key.removeprefix(prefix)):
            del state[key]


def restore_roles(checkpoint: dict[str, Any], prefix: str, backbone: Backbone, module: str) -> None:
    """Create the reference that a checkpoint holds, and check that every role finds its weights.

    Loading is not strict, since the base is left out; so the weights of roles are checked here.

    Raises:
        ValueError: the checkpoint is of another module, or of another base.
    """
    given = {
        key.removeprefix(prefix): tensor.shape
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    brings_reference = any(re.search(rf"\.lora_\w+\.{REFERENCE}\.", key) for key in given)
    if brings_reference and not backbone.roles[REFERENCE].adapter:
        backbone.roles.pop(REFERENCE)
        backbone.add_role(REFERENCE, trainable=False, init_from="policy")
    wanted = {k: v.shape for k, v in backbone.state_dict().items() if backbone.is_saved(k)}
    wrong = sorted(wanted.keys() ^ given.keys())
    if wrong:
        differs = "it lacks" if wrong[0] in wanted else "it has"
        raise ValueError(
            f"the checkpoint is not of this {module}: {differs} {wrong[0]!r} "
            f"({len(wrong)} such tensors); resume with the module and the LoRA it was trained with"
        )
    wrong = sorted(key for key in wanted if wanted[key] != given[key])
    if wrong:
        raise ValueError(
            f"the checkpoint is of another base model or LoRA rank: {wrong[0]!r} has shape "
            f"{tuple(given[wrong[0]])} there and {tuple(wanted[wrong[0]])} here; resume with the "
            "base and the LoRA it was trained with"
        )


def check_file(path: str, module: Any = None) -> None:
    """Check a checkpoint before anything is loaded.

    Args:
        path: of the file; a folder or an address is checked as it is loaded.
        module: the module to resume; None checks the file alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a checkpoint, or another module's.
    """
    if local_file(path) is None or Path(path).is_dir() or path in ("best", "hpc"):
        return
    stored = peek(path)
    if module is not None:
        check_class(stored.get("hyper_parameters", {}), module, path)
        check_resumable(stored, path)


def check_resumable(checkpoint: dict[str, Any], name: str) -> None:
    """Refuse to go on from weights alone.

    Raises:
        ValueError: it lacks the state of optimizers, loops or roles.
    """
    lacks = [k for k in ("optimizer_states", "lr_schedulers", "loops") if k not in checkpoint]
    if lacks:
        raise ValueError(
            f"{name} holds weights and no {lacks[0]}, so that no run can go on from it: give a "
            "checkpoint that was saved without save_weights_only, or start anew from its role "
            "(backbone.adapters)"
        )


def check_class(hyper_parameters: dict[str, Any], module: Any, name: str) -> None:
    """Refuse to resume one method from the checkpoint of another, even if their tensors agree.

    Raises:
        ValueError: names both methods.
    """
    there = hyper_parameters.get("_class_path")
    classes = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]
    if there is not None and there not in classes:
        raise ValueError(
            f"{name} is a checkpoint of {there.rpartition('.')[2]}, not of "
            f"{type(module).__name__}: resume it as that, or start {type(module).__name__} from "
            "the role folder which that run wrote (backbone.adapters)"
        )


Restored = Iterable[tuple[str, Any, Any]]  # a setting, its given and its stored value


def refuse_overridden(settings: Restored, name: str) -> None:
    """Refuse settings that a resumed run would ignore.

    Lightning restores whole states: learning rate, weight decay, a scheduler's steps, patience.

    Args:
        settings: of ``in_optimizers`` or ``in_callbacks``; None stands for a missing value.
        name: of the checkpoint's file.

    Raises:
        ValueError: names the setting and both values.
    """
    for setting, given, stored in settings:
        if given == stored:
            continue
        if given is None or stored is None:
            raise ValueError(
                f"{name} resumes with another kind of {setting}: resume with the one it was "
                "trained with, or start anew from its role (backbone.adapters)"
            )
        raise ValueError(
            f"{name} resumes with {setting}={stored}, so that {setting}={given} would be "
            f"overridden: give {setting}={stored}, or start anew from its role "
            "(backbone.adapters)"
        )


def in_callbacks(checkpoint: dict[str, Any], trainer: Trainer) -> Restored:
    """Settings that callbacks are about to restore from a checkpoint."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
        if "patience" in state:
            yield f"{type(callback).__name__}.patience", callback.patience, state["patience"]


def in_optimizers(checkpoint: dict[str, Any], trainer: Trainer) -> Restored:
    """Settings that optimizers and schedulers are about to restore from a checkpoint."""
    states = checkpoint.get("optimizer_states", [])
    for optimizer, state in zip(trainer.optimizers, states, strict=False):
        for group, old in zip(optimizer.param_groups, state["param_groups"], strict=False):
            if group.keys() ^ old.keys():
                yield "optimizer", None, type(optimizer).__name__
            cycled = {"betas", "momentum"} if "max_momentum" in group else set()
            for key in sorted(group.keys() - cycled - {"params", "param_names", "lr"}):
                name = "lr" if key == "initial_lr" else f"optimizer.{key}"
                yield name, _plain(group[key]), _plain(old.get(key))
    for config, state in zip(
        trainer.lr_scheduler_configs, checkpoint.get("lr_schedulers", []), strict=False
    ):
        now = config.scheduler.state_dict()
        for key in _arguments(config.scheduler):
            if isinstance(now.get(key), int | float | list) and key in state:
                yield f"lr_scheduler.{key}", _plain(now[key]), _plain(state[key])


def _arguments(thing: Any) -> list[str]:
    return [n for n in inspect.signature(type(thing).__init__).parameters if n != "last_epoch"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def rng_state() -> dict[str, Any]:
    """State of every global generator, in types that a ``weights_only`` load accepts."""
    version, numbers, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  the global generator is the one to resume
    assert isinstance(numpy, dict)
    inner = numpy["state"]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [inner["key"].tolist(), inner["pos"], numpy["has_gauss"], numpy["gauss"]],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a state of ``rng_state``."""
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, pos, has_gauss, cached = state["numpy"]
    numpy = ("MT19937", np.array(key, dtype=np.uint32), pos, has_gauss, cached)
    np.random.set_state(numpy)  # noqa: NPY002
