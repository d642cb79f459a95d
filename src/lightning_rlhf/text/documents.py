"""Read YAML and JSON files as plain values, and name the line of one that is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from lightning_rlhf.text.display import HALF, printable, quoted, shortened
from lightning_rlhf.text.suggest import nearest

MOST_VALUES = 1_000_000  # of a document
UNREADABLE = (
    ValueError, TypeError, AttributeError, LookupError, OverflowError, yaml.YAMLError,
)  # fmt: skip


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
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path, path.read_bytes())) from error
    return parsed(text, path, json.loads if path.suffix == ".json" else yaml.safe_load)


def parsed(text: str, where: str | Path, parse: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Parse YAML or JSON that may be anything: it is bounded in depth and in size.

    Args:
        text: of the document.
        where: its file, or what else names it.
        parse: the parser.

    Raises:
        ValueError: it is broken; names the line, where there is one.
    """
    try:
        value = parse(text)
        size = _size(value, {})
    except (json.JSONDecodeError, yaml.MarkedYAMLError) as error:
        raise ValueError(broken(where, error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ValueError(
            f"{where} line {line} holds the control character U+{code:04X}: delete it"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep, or holds itself: write it flat") from error
    except UNREADABLE as error:  # what PyYAML lets through of dates, numbers and tags
        reason = shortened(printable(str(error)), 120)
        raise ValueError(
            f"{where} holds a value that cannot be read ({reason}): put it in quotes"
        ) from error
    if size > MOST_VALUES:
        raise ValueError(
            f"{where} holds {size:.0e} values once its aliases are written out: write fewer"
        )
    return value


def _size(value: Any, known: dict[int, int]) -> int:
    """Count the values of a document as if each alias were written out."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not inner:
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(_size(one, known) for one in inner)
    return known[id(value)]


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
    problem = shortened(printable(str(error.problem)), 160)
    if error.problem_mark is None:
        return f"{path} is broken YAML: {problem}"
    line, column = first_line + error.problem_mark.line, error.problem_mark.column + 1
    return f"{path} line {line} is broken YAML: {problem} in column {column}; {fix}"


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
    if HALF.search(value):
        raise ValueError(f"{where} holds half of a character pair: write the whole character")
    return value.strip()


def known(keys: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse unknown keys."""
    names = list(allowed)
    for key in keys:
        if key not in names:
            near = nearest(str(key), names)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(names)}"
            raise ValueError(f"{where} has a field {quoted(key)} that nobody reads: {hint}")
