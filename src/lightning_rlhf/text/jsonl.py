"""Read and write JSONL files: one JSON value per line, UTF-8.

The variants differ in what a killed process may leave behind, and in who has to survive it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_rlhf.text.display import HALF
from lightning_rlhf.text.documents import broken, not_utf8
from lightning_rlhf.text.writing import replacing, writing

FIX = "fix or remove that line"


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file anew, and its folder if there is none; until the end the old one stays.

    Raises:
        ValueError: the disk is full, or the file cannot be written there.
    """
    with replacing(path) as file:
        for row in rows:
            file.write(_line(row).encode())


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append to a file that is closed on return: a killed process loses none of these rows.

    Raises:
        ValueError: the disk is full, or the file cannot be written there; it is as it was.
    """
    _append("".join(map(_line, rows)).encode(), path, synced=False)


def append_rows_synced(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append in one write and wait for the disk: a power failure loses none of these rows.

    Raises:
        ValueError: the disk is full, or the file cannot be written there; it is as it was.
    """
    _append("".join(map(_line, rows)).encode(), path, synced=True)


def _append(data: bytes, path: Path, synced: bool) -> None:
    with writing(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(data)
            while rest:  # a disk that fills up takes a part
                rest = rest[file.write(rest) :]
            if synced:
                os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read a file that must be intact.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not JSON, or its bytes are not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield _parse(line, path, number)
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path, Path(path).read_bytes())) from error


def read_intact_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file that a run may still be writing: lines that are not whole rows are skipped."""
    for line in path.read_text(encoding="utf-8").split("\n"):  # a text may hold U+2028
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def complete_rows(path: Path) -> Iterator[tuple[Any, int]]:
    """Read the rows of complete lines, each with the offset in bytes of its line's end.

    A last line without its newline was left by a kill, even if it happens to be valid JSON. Cut it
    off with ``truncate`` before appending.

    Raises:
        ValueError: a complete line is not JSON, or its bytes are not UTF-8.
    """
    end = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield _parse(line.decode(), path, number), end
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path, path.read_bytes())) from error


def truncate(path: Path, end: int) -> None:
    """Cut a file off behind its first ``end`` bytes; a file that ends there is not touched."""
    if end < path.stat().st_size:
        os.truncate(path, end)


def _line(row: dict[str, Any]) -> str:
    """Write a row as a line; a text with half a character, which has no UTF-8, by its escapes."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    return json.dumps(row) + "\n" if HALF.search(line) else line


def _parse(line: str, path: str | Path, number: int) -> Any:
    try:
        return json.loads(line.rstrip("\r\n"))  # else a broken line's end is on the next line
    except json.JSONDecodeError as error:
        raise ValueError(broken(path, error, first_line=number, fix=FIX)) from error
    except (ValueError, RecursionError) as error:  # an integer of too many digits
        raise ValueError(f"{path} line {number} is nested too deep or too large: {FIX}") from error
