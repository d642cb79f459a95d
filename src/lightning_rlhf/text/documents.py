"""A YAML or JSON file as plain values, and what is said of one that cannot be read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def read_file(path: Path) -> Any:
    """What a ``.yaml``, ``.yml`` or ``.json`` file holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a broken one.
    """
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"{path}: cannot read {path.suffix or 'it'}; give a .yaml or .json file")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno} is broken JSON: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path} line {line} is broken YAML: {error.problem}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte in place {error.start} is not UTF-8") from error


def text_of(value: Any, where: str) -> str:
    """A string without the white space around it."""
    if not isinstance(value, str):
        raise ValueError(f"{where} is {type(value).__name__}, not text: put it in quotes")
    return value.strip()


def known(keys: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse keys nobody reads."""
    names = list(allowed)
    for key in keys:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise ValueError(f"{where} has a field {key!r} that nobody reads: {hint}")
