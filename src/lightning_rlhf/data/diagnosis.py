"""Find the line or byte that makes a file unreadable, and the fix.

This runs only after reading has failed, so it costs nothing for a good file.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from lightning_rlhf.text.documents import broken, not_utf8
from lightning_rlhf.text.jsonl import FIX

Made = TypeVar("Made")
GZIP = b"\x1f\x8b"
ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
}
EMPTY = "is empty: it holds no rows"
CSV_FIELDS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
CSV_QUOTE = re.compile(r"EOF inside string starting at row (\d+)")


class Sentence(NamedTuple):
    """A sentence about files that cannot be read."""

    text: str
    found: bool  # False if it only repeats the reader's reason


def unreadable(files: Sequence[str], kind: str, error: BaseException) -> Sentence:
    """Write the sentence for files that a reader refused, about the first that is wrong.

    Args:
        files: their paths.
        kind: "json", "csv" or "parquet".
        error: the reader's error, used if nothing is found here.
    """
    reason = " ".join(str(error.__cause__ or error).split()) or "no rows"
    for path in map(Path, files):
        sentence = _fault(path, kind)
        if sentence:
            return Sentence(sentence, True)
    names = ", ".join(files)
    if "corresponds to no data" in reason or "No columns to parse" in reason:
        return Sentence(f"{names} {EMPTY}", True)
    if kind == "csv" and (fields := CSV_FIELDS.search(reason)):
        expected, line, seen = fields.groups()
        return Sentence(
            f"{names} line {line} has {seen} fields, and the lines before it {expected}; "
            "put texts that hold a comma in quotes",
            True,
        )
    if kind == "csv" and (quote := CSV_QUOTE.search(reason)):
        return Sentence(f"{names}: a quote in row {quote[1]} is not closed; close it", True)
    return Sentence(f"{names} cannot be read as {kind}: {reason}; write it again", False)


def surrogate(value: Any) -> str | None:
    r"""Name half of a character pair (\ud83d alone) in a value; None if there is none."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        return f"half of a character pair (\\u{ord(error.object[error.start]):04x} alone)"
    except (TypeError, ValueError, RecursionError):
        pass
    return None


def opened(path: Path) -> TextIO:
    """Open a text file, unpacked if it is gzip; by its first bytes and not by its name."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8-sig", "newline": "\n"}
    return gzip.open(path, **how) if packed else path.open(**how)


def name_wrong_bytes(read: Callable[[Any, Any], Made]) -> Callable[[Any, Any], Made]:
    """Make a method ``read(self, source)`` name the line of bytes that are not UTF-8.

    Arrow accepts any bytes as text; the error appears only when a row becomes Python objects.
    """

    @wraps(read)
    def reading(self: Any, source: Any) -> Made:
        try:
            return read(self, source)
        except UnicodeDecodeError as error:
            named = isinstance(source, str | Path)
            sentences = (not_utf8(f, _bytes(f)) for f in _files(str(source) if named else ""))
            sentence = next(filter(None, sentences), None)
            name = source if named else f"the {type(source).__name__} given as source"
            raise ValueError(
                sentence or f"{name} holds text that is not UTF-8: {error}; save it as UTF-8"
            ) from error

    return reading


def _files(source: str) -> list[Path]:
    """List the text files of a source that has a name."""
    name = source.removeprefix("stream:")
    path = next((p for p in map(Path, (name, name.split(":")[0])) if p.exists()), Path(name))
    path = path.expanduser()
    files = sorted(path.rglob("*")) if name and path.is_dir() else [path]
    return [f for f in files if f.is_file() and ".parquet" not in f.suffixes]


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data.startswith(GZIP) else data


def _fault(path: Path, kind: str) -> str | None:
    """Say what is wrong with a file; None if nothing is found."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return f"{path} cannot be opened: {error.strerror}; check the file and its rights"
    archive = next((name for mark, name in ARCHIVES.items() if raw.startswith(mark)), None)
    if archive:
        return f"{path} is a {archive} archive: unpack it and give the file inside"
    try:
        data = _bytes(path)
    except (OSError, EOFError, zlib.error):
        return f"{path} is a gzip archive that is cut or damaged: fetch or pack it again"
    if not data.strip():
        return f"{path} {EMPTY}"
    if path.suffix.lower() == ".gz" and not raw.startswith(GZIP):
        name = path.with_suffix("").name
        return f"{path} is not a gzip archive, though its name says so: rename it to {name}"
    if kind == "parquet":
        whole = data.startswith(b"PAR1") and data.endswith(b"PAR1")
        hint = "it is cut: fetch it again" if data.startswith(b"PAR1") else "give it its own suffix"
        return (
            None
            if whole
            else f"{path} cannot be read as parquet: its first or last bytes are wrong; {hint}"
        )
    if data.startswith(b"PAR1"):
        return f"{path} is a parquet file: rename it to {path.with_suffix('.parquet').name}"
    return not_utf8(path, data) or (_json(path, data) if kind == "json" else None)


def _json(path: Path, data: bytes) -> str | None:
    """Find the broken line of a file with one value per line, or with one list."""
    text = data.decode("utf-8-sig")
    pieces = [(1, text)] if text.lstrip()[:1] == "[" else enumerate(text.split("\n"), start=1)
    for number, piece in pieces:
        try:
            row = json.loads(piece, object_pairs_hook=_once) if piece.strip() else {}
        except json.JSONDecodeError as error:
            return broken(path, error, first_line=number, fix=FIX)
        except RecursionError:
            return f"{path} line {number} is nested too deeply; {FIX}"
        except KeyError as key:
            return f"{path} line {number} gives the field {key} twice; {FIX}"
        rows = row if isinstance(row, list) else [row]
        if not rows:
            return f"{path} {EMPTY}"
        for place, item in enumerate(rows, start=1):
            where = f"{path} line {number}" if rows is not row else f"{path} row {place}"
            if not isinstance(item, dict):
                return f"{where} is {type(item).__name__}, not a row of named fields; {FIX}"
            if half := surrogate(item):
                return f"{where} holds {half}; {FIX}"
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return row
