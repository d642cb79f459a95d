"""What is wrong with a file that cannot be read: the line, the byte, the mend.

Looked for only once reading has failed, so that a good file costs nothing.
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
    """The sentence for files that their reader refused: of the first that has something wrong.

    Args:
        files: their paths.
        kind: "json", "csv" or "parquet".
        error: the reader's, for what is not found here.
    """
    for path in map(Path, files if kind != "parquet" else []):
        data = _bytes(path)
        if not data.strip():
            return f"{path} is empty: it holds no rows"
        trouble = not_utf8(path, data) or (_json(path, data) if kind == "json" else None)
        if trouble:
            return trouble
    reason = str(error.__cause__ or error) or "no rows"
    return f"{', '.join(files)} cannot be read as {kind}: {reason}"


def names_wrong_bytes(read: Callable[[Any, Any], Made]) -> Callable[[Any, Any], Made]:
    """``read(self, source)``, whose wrong bytes, met as late as in a row, are told by their line.

    Arrow takes any bytes for text; only who asks for a row as Python objects finds out.
    """

    @wraps(read)
    def reading(self: Any, source: Any) -> Made:
        try:
            return read(self, source)
        except UnicodeDecodeError as error:
            path = Path(str(source).rpartition("stream:")[2]).expanduser()
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            found = (not_utf8(f, _bytes(f)) for f in files if f.is_file())
            said = next((trouble for trouble in found if trouble), None)
            raise ValueError(said or f"{source} holds text that is not UTF-8: {error}") from error

    return reading


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _json(path: Path, data: bytes) -> str | None:
    """One value to a line, or one list for all."""
    text = data.decode("utf-8-sig")
    pieces = [(1, text)] if text.lstrip()[:1] == "[" else enumerate(text.split("\n"), start=1)
    for number, piece in pieces:
        try:
            row = json.loads(piece) if piece.strip() else {}
        except json.JSONDecodeError as error:
            return broken(path, error, first_line=number, fix=FIX)
        if not isinstance(row, dict | list):
            return f"{path} line {number} is {type(row).__name__}, not a row of named fields"
    return None
