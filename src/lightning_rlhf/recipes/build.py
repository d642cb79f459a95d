"""A stage's sections as objects: by LightningCLI, as ``fit --config`` would build them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, LightningDataModule, LightningModule

from lightning_rlhf.callbacks import SaveRoles, WriteRows
from lightning_rlhf.callbacks.memory_guard import MemoryGuard
from lightning_rlhf.models.backbone import POLICY
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options

CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
EVERY = 50  # steps between two checkpoints, where a stage says nothing: what a kill costs
ROWS = "rows.jsonl"


def build(spec: dict[str, Any], verb: str, folder: Path, seed: int) -> AlignmentCLI:
    """Module, data and Trainer of a stage; a backbone is a description yet.

    Args:
        spec: the stage, references resolved.
        verb: of the Trainer.
        folder: of the stage: roles, rows, checkpoints and the log go there.
        seed: set before anything is built.

    Raises:
        argparse.ArgumentError: what the parser refuses.
        ValueError: what a class refuses, or a Trainer of several processes.
    """
    callbacks: list[Callback] = [SaveRoles(str(folder)), MemoryGuard()]
    if verb == "predict" and "rows" not in spec.get("outputs", {}):
        callbacks.append(WriteRows(str(folder / ROWS)))
    options = {
        **cli_options(),
        "run": False,
        "trainer_defaults": {"default_root_dir": str(folder), "callbacks": callbacks},
    }
    sections = {"model": spec["model"], "data": spec["data"], "seed_everything": seed}
    sections["trainer"] = trainer_section(spec.get("trainer") or {}, folder, verb)
    cli = AlignmentCLI(LightningModule, LightningDataModule, **options, args=sections)
    if cli.trainer.world_size > 1:
        raise ValueError(
            f"a recipe runs in one process, and this Trainer wants {cli.trainer.world_size}: give "
            f"trainer.devices: 1, or run this stage with `lightning-rlhf {verb} --config`"
        )
    return cli


def trainer_section(trainer: dict[str, Any], folder: Path, verb: str) -> dict[str, Any]:
    """A Trainer's section with a log and, for fit, a last.ckpt in the stage's folder."""
    log = {
        "class_path": "pytorch_lightning.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "log"},
    }
    trainer = {"logger": log, **trainer}
    if verb != "fit" or trainer.get("enable_checkpointing") is False:
        return trainer
    given = trainer.get("callbacks") or []
    callbacks = [_entry(c) for c in (given if isinstance(given, list) else [given])]
    mine = next((c for c in callbacks if c["class_path"].endswith("ModelCheckpoint")), None)
    if mine is None:
        mine = {"class_path": CHECKPOINT}
        mine["init_args"] = {"every_n_train_steps": EVERY, "save_top_k": 0}
        callbacks.append(mine)
    mine["init_args"] = {**(mine.get("init_args") or {}), **_last(folder)}
    return {**trainer, "callbacks": callbacks}


def _entry(callback: Any) -> dict[str, Any]:
    return {"class_path": callback} if isinstance(callback, str) else dict(callback)


def _last(folder: Path) -> dict[str, Any]:
    return {
        "dirpath": str(folder / "checkpoints"),
        "save_last": True,
        "enable_version_counter": False,  # one last.ckpt, which a resumed stage writes over
    }


def leaves(cli: AlignmentCLI, verb: str, folder: Path) -> dict[str, str]:
    """What a stage will have written, by the names that later stages use."""
    if verb == "predict":
        return {"rows": str(folder / ROWS)}
    if verb != "fit":
        return {}
    made = {"checkpoint": str(folder / "checkpoints" / "last.ckpt")}
    if not isinstance(cli.model, AlignmentModule):
        return made
    if cli.model.backbone.lora is not None:
        return made | {role: str(folder / role) for role in cli.model.trained}
    whole = POLICY in cli.model.trained  # a whole model's head lives in the checkpoint
    return made | ({"model": str(folder / POLICY)} if whole else {})


def function_of(spec: dict[str, Any], folder: Path, seed: int) -> partial[Any]:
    """The function a stage calls, its arguments parsed and checked.

    ``folder`` (of the stage) and ``seed`` are given to a function that takes them.

    Raises:
        argparse.ArgumentError: an argument it does not have, or of another kind.
        ValueError: no such function.
    """
    function = named_function(spec["call"])
    takes = inspect.signature(function).parameters
    own = {"folder": str(folder), "seed": seed}
    given = {k: v for k, v in own.items() if k in takes} | spec.get("args", {})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function, fail_untyped=False)
    parsed = parser.parse_object(given)
    return partial(function, **parser.instantiate(parsed).as_dict())


def named_function(path: str) -> Callable[..., Any]:
    """A function by its dotted path.

    Raises:
        ValueError: there is none.
    """
    try:
        function = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"call: there is no function {path}: {error}") from error
    if not callable(function):
        raise ValueError(f"call: {path} is no function")
    found: Callable[..., Any] = function
    return found
