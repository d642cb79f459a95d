"""Build the objects of a stage with LightningCLI, as ``fit --config`` would."""

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
from lightning_rlhf.callbacks.save_on_stop import SaveOnStop
from lightning_rlhf.models.backbone import POLICY
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options

CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
EVERY = 50  # steps between two checkpoints by default: the most that a kill loses
ROWS = "rows.jsonl"


def build(spec: dict[str, Any], verb: str, folder: Path, seed: int) -> AlignmentCLI:
    """Build the module, data and Trainer of a stage; weights are not loaded yet.

    Args:
        spec: of the stage, with its references resolved.
        verb: of the Trainer.
        folder: of the stage, for its roles, rows, checkpoints and log.
        seed: set before anything is built.

    Raises:
        argparse.ArgumentError: the parser refuses an argument.
        ValueError: a class refuses an argument, or the Trainer has several processes.
    """
    callbacks: list[Callback] = [SaveRoles(str(folder)), MemoryGuard(), SaveOnStop()]
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
            f"a recipe runs in one process, and this Trainer has {cli.trainer.world_size}: give "
            f"trainer.devices: 1, or run this stage with `lightning-rlhf {verb} --config`"
        )
    return cli


def trainer_section(trainer: dict[str, Any], folder: Path, verb: str) -> dict[str, Any]:
    """Add a log to a Trainer's section and, for fit, a last.ckpt in the stage's folder."""
    log = {
        "class_path": "pytorch_lightning.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "log"},
    }
    trainer = {"logger": log, **trainer}
    if verb != "fit" or trainer.get("enable_checkpointing") is False:
        return trainer
    given = trainer.get("callbacks") or []
    callbacks = [_entry(c) for c in (given if isinstance(given, list) else [given])]
    saver = next((c for c in callbacks if c["class_path"].endswith("ModelCheckpoint")), None)
    if saver is None:
        saver = {"class_path": CHECKPOINT}
        saver["init_args"] = {"every_n_train_steps": EVERY, "save_top_k": 0}
        callbacks.append(saver)
    saver["init_args"] = {**(saver.get("init_args") or {}), **_last(folder)}
    return {**trainer, "callbacks": callbacks}


def _entry(callback: Any) -> dict[str, Any]:
    return {"class_path": callback} if isinstance(callback, str) else dict(callback)


def _last(folder: Path) -> dict[str, Any]:
    return {
        "dirpath": str(folder / "checkpoints"),
        "save_last": True,
        "enable_version_counter": False,  # a resumed stage overwrites last.ckpt
    }


def outputs_of(cli: AlignmentCLI, verb: str, folder: Path) -> dict[str, str]:
    """Return the paths that a stage will write, by the names that later stages use."""
    if verb == "predict":
        return {"rows": str(folder / ROWS)}
    if verb != "fit":
        return {}
    outputs = {"checkpoint": str(folder / "checkpoints" / "last.ckpt")}
    if not isinstance(cli.model, AlignmentModule):
        return outputs
    if cli.model.backbone.lora is not None:
        return outputs | {role: str(folder / role) for role in cli.model.trained}
    whole = POLICY in cli.model.trained  # the head of a whole model is in the checkpoint only
    return outputs | ({"model": str(folder / POLICY)} if whole else {})


def function_of(spec: dict[str, Any], folder: Path, seed: int) -> partial[Any]:
    """Find the function that a stage calls, and parse its arguments.

    A function with a parameter ``folder`` or ``seed`` gets those of the stage.

    Raises:
        argparse.ArgumentError: the function does not have an argument, or takes another type.
        ValueError: there is no such function.
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
    """Import a function by its dotted path.

    Raises:
        ValueError: there is no such function.
    """
    try:
        function = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"call: there is no function {path}: {error}") from error
    if not callable(function):
        raise ValueError(f"call: {path} is not a function: give the dotted path of one")
    checked: Callable[..., Any] = function
    return checked
