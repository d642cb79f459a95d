"""Read YAML and JSON files as plain values, and name the line of one that is broken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from lightning_rlhf.text.suggest import nearest


def read_file(path: Path) -> Any:
    """Read a ``.yaml``, ``.yml`` or ``.json`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a file of another kind, or a broken one.
    """
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"{path}: cannot read {path.suffix or 'it'}; give a .yaml or .json file")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.MarkedYAMLError) as error:
        raise ValueError(broken(path, error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path, path.read_bytes())) from error


def broken(
    path: str | Path,
    error: json.JSONDecodeError | yaml.MarkedYAMLError,
    *,
    first_line: int = 1,
    fix: str = "fix that line",
) -> str:
    """Name the file, line and column that a parser refused.

    Args:
        path: of the file.
        error: the parser's.
        first_line: of the text that was parsed, where it is a part of the file.
        fix: what to do.
    """
    if isinstance(error, json.JSONDecodeError):
        line, column = first_line + error.lineno - 1, error.colno
        return f"{path} line {line} is broken JSON: {error.msg} in column {column}; {fix}"
    if error.problem_mark is None:
        return f"{path} is broken YAML: {error.problem}"
    line, column = first_line + error.problem_mark.line, error.problem_mark.column + 1
    return f"{path} line {line} is broken YAML: {error.problem} in column {column}; {fix}"


def not_utf8(path: str | Path, data: bytes) -> str | None:
    """Name the line and column of a file's first byte that is not UTF-8; None if all of it is."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        return (
            f"{path} line {line}: byte 0x{data[error.start]:02x} in column {column} is not UTF-8; "
            "save the file as UTF-8 (iconv -f latin1 -t utf-8)"
        )
    return None


def text_of(value: Any, where: str) -> str:
    """Check that a value is a string, and strip the white space around it."""
    if not isinstance(value, str):
        raise ValueError(f"{where} is {type(value).__name__}, not text: put it in quotes")
    return value.strip()


def known(keys: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse unknown keys."""
    names = list(allowed)
    for key in keys:
        if key not in names:
            near = nearest(str(key), names)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(names)}"
            raise ValueError(f"{where} has a field {key!r} that nobody reads: {hint}")
