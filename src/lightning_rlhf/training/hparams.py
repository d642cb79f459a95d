"""A module's arguments as plain dicts and numbers: what loggers show and checkpoints may hold.

Objects in a checkpoint (dataclasses, functions) make it unloadable, since torch loads weights
only. The form is LightningCLI's own, so ``load_from_checkpoint`` builds the module again from it.
"""

from __future__ import annotations

import inspect
from dataclasses import asdict, is_dataclass
from types import FunctionType
from typing import Any

from torch import nn

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"


def describe(module: nn.Module) -> dict[str, Any]:
    """The constructor's arguments of a module that keeps each under its own name."""
    return {"_class_path": _path(type(module)), "_instantiator": INSTANTIATOR, **_arguments(module)}


def _arguments(thing: Any) -> dict[str, Any]:
    names = list(inspect.signature(type(thing).__init__).parameters)[1:]
    found = {name: _plain(getattr(thing, name)) for name in names if hasattr(thing, name)}
    return {name: value for name, value in found.items() if value is not _UNSAYABLE}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {k: _plain(v) for k, v in asdict(value).items()}
    if isinstance(value, FunctionType):
        return (
            _path(value) if "<" not in value.__qualname__ else _UNSAYABLE
        )  # no lambdas, no closures
    if type(value).__module__.startswith("lightning_rlhf."):
        return {"class_path": _path(type(value)), "init_args": _arguments(value)}
    return _UNSAYABLE


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


_UNSAYABLE = object()
