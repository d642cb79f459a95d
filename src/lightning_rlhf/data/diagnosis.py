"""Find the line or byte that makes a file unreadable, and the fix.

This runs only after reading has failed, so it costs nothing for a good file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from lightning_rlhf.text.documents import broken, not_utf8
from lightning_rlhf.text.jsonl import FIX

Made = TypeVar("Made")


def unreadable(files: Sequence[str], kind: str, error: BaseException) -> str:
    """Write the sentence for files that a reader refused, about the first that is wrong.

    Args:
        files: their paths.
        kind: "json", "csv" or "parquet".
        error: the reader's error, used if nothing is found here.
    """
    for path in map(Path, files if kind != "parquet" else []):
        data = _bytes(path)
        if not data.strip():
            return f"{path} is empty: it holds no rows"
        sentence = not_utf8(path, data) or (_json(path, data) if kind == "json" else None)
        if sentence:
            return sentence
    reason = str(error.__cause__ or error) or "no rows"
    return f"{', '.join(files)} cannot be read as {kind}: {reason}"


def name_wrong_bytes(read: Callable[[Any, Any], Made]) -> Callable[[Any, Any], Made]:
    """Make a method ``read(self, source)`` name the line of bytes that are not UTF-8.

    Arrow accepts any bytes as text; the error appears only when a row becomes Python objects.
    """

    @wraps(read)
    def reading(self: Any, source: Any) -> Made:
        try:
            return read(self, source)
        except UnicodeDecodeError as error:
            path = Path(str(source).rpartition("stream:")[2]).expanduser()
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            sentences = (not_utf8(f, _bytes(f)) for f in files if f.is_file())
            sentence = next(filter(None, sentences), None)
            raise ValueError(
                sentence or f"{source} holds text that is not UTF-8: {error}; save it as UTF-8"
            ) from error

    return reading


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _json(path: Path, data: bytes) -> str | None:
    """Find the broken line of a file with one value per line, or with one list."""
    text = data.decode("utf-8-sig")
    pieces = [(1, text)] if text.lstrip()[:1] == "[" else enumerate(text.split("\n"), start=1)
    for number, piece in pieces:
        try:
            row = json.loads(piece) if piece.strip() else {}
        except json.JSONDecodeError as error:
            return broken(path, error, first_line=number, fix=FIX)
        if not isinstance(row, dict | list):
            return f"{path} line {number} is {type(row).__name__}, not a row of named fields; {FIX}"
    return None
