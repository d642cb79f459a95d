"""One reader and one writer of JSONL, and the ways in which each may differ."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_rlhf.text.jsonl import (
    append_rows,
    append_rows_synced,
    complete_rows,
    read_intact_rows,
    read_rows,
    truncate,
    write_rows,
)

ROWS = [{"a": "Grüße\u2028 and a line\n"}, {"b": [1, None]}]
Append = Callable[..., None]


def test_rows_come_back_with_their_line_separators(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    write_rows(file, ROWS[1:])
    write_rows(file, ROWS)  # anew
    assert file.read_bytes().count(b"\n") == 2 and "Grüße" in file.read_text(encoding="utf-8")
    assert list(read_rows(file)) == list(read_intact_rows(file)) == ROWS
    assert [row for row, _ in complete_rows(file)] == ROWS


@pytest.mark.parametrize("append", [append_rows, append_rows_synced])
def test_appended_rows_are_on_disk_on_return(append: Append, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append(file, ROWS[:1])
    append(file, iter(ROWS[1:]))
    assert list(read_rows(file)) == ROWS


def test_a_synced_append_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(file.read_bytes()))
    append_rows_synced(file, ROWS)
    assert synced == [file.read_bytes()]


def test_a_line_that_a_kill_left_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    whole = b'{"n": 1}\n{"n": 2}\n'
    file.write_bytes(whole + b'{"n": 3}')  # valid JSON, but the newline is missing
    rows = list(complete_rows(file))
    assert rows == [({"n": 1}, 9), ({"n": 2}, 18)]
    truncate(file, rows[-1][1])
    assert file.read_bytes() == whole
    file.chmod(0o444)
    before = file.stat().st_mtime_ns
    truncate(file, len(whole))
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("read", [read_rows, complete_rows])
def test_a_broken_line_is_named(read: Callable[..., object], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"n": 1}\n{"n": }\n')
    with pytest.raises(
        ValueError,
        match=r"rows\.jsonl line 2 is broken JSON: Expecting value in column 7; fix or remove",
    ):
        list(read(file))  # type: ignore[call-overload]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"n": 1}\n{"n": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2: byte 0xe9 in column 11 is not"):
        list(read_rows(file))
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2: byte 0xe9 in column 11 is not"):
        list(complete_rows(file))


def test_a_file_in_the_making_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"n": 1}\n\n[2]\nbroken\n{"n": 3}\n{"n"')
    assert list(read_intact_rows(file)) == [{"n": 1}, {"n": 3}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no file at .*rows\.jsonl$"):
        list(read_rows(tmp_path / "rows.jsonl"))
