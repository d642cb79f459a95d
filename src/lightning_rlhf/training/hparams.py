"""A module's arguments as plain dicts and numbers, for loggers and checkpoints.

Objects (dataclasses, functions) would make a checkpoint unloadable: torch loads weights only. The
form is LightningCLI's own, so ``load_from_checkpoint`` builds the module again from it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from importlib.util import find_spec
from types import FunctionType
from typing import Any

DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"


def describe(module: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments of a module's constructor; the module keeps each under its own name."""
    given = _arguments(module, leave_out)
    return {"_class_path": _path(type(module)), "_instantiator": INSTANTIATOR, **given}


def _arguments(thing: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [name for name in argument_names(type(thing)) if name not in leave_out]
    values = {name: _plain(getattr(thing, name)) for name in names if hasattr(thing, name)}
    return {name: value for name, value in values.items() if value is not _OMITTED}


def argument_names(kind: type) -> list[str]:
    """Names of a constructor's arguments, and of those that ``**`` hands on to its parent's."""
    names: dict[str, None] = {}
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        signature = inspect.signature(vars(parent)["__init__"]).parameters
        kinds = {p.kind for p in signature.values()}
        rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names |= dict.fromkeys([n for n, p in signature.items() if p.kind not in rest][1:])
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return list(names)


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
        # lambdas and closures have no path
        return _path(value) if "<" not in value.__qualname__ else _OMITTED
    if type(value).__module__.startswith("lightning_rlhf."):
        return {"class_path": _path(type(value)), "init_args": _arguments(value)}
    return _OMITTED


def refuse_imports(settings: Any, name: str) -> None:
    """Refuse settings from a file that name modules which nobody has imported.

    Building a module from its settings imports what they name, and an import runs code.

    Args:
        settings: as ``describe`` makes them.
        name: of the file.

    Raises:
        ValueError: names the module.
    """
    for text in _strings(settings):
        module = _not_imported(text) if DOTTED.fullmatch(text) else None
        if module is not None:
            raise ValueError(
                f"{name} names {text}, and the module {module} has not been imported: loading "
                f"would import it, which runs its code; if you trust it, `import {module}` first"
            )


def _not_imported(text: str) -> str | None:
    """Return the module that a dotted name lies in, if it exists and is not imported."""
    parts = text.split(".")
    for size in range(1, len(parts)):
        module = ".".join(parts[:size])
        if module in sys.modules:
            continue
        parent = sys.modules.get(".".join(parts[: size - 1]))
        if parent is not None and hasattr(parent, parts[size - 1]):
            return None  # a class or function of an imported module
        if parts[0] == "lightning_rlhf":
            return None
        try:
            return module if find_spec(module) is not None else None
        except (ImportError, ValueError):
            return None
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _strings(part))
    elif isinstance(value, list | tuple):
        yield from (text for part in value for text in _strings(part))


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


_OMITTED = object()
