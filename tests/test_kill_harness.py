"""The harness kills where it is told to, and notices a kill that never comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kill_harness import Kill, Killer, run_killed


def count_to_five(folder: Path, killer: Killer, start: int) -> None:
    """Append the numbers that the file lacks; a torn last line is written again."""
    file = folder / "numbers"

    def append(number: int) -> None:
        with file.open("a") as opened:
            opened.write(f"{number}\n")

    def tear() -> None:
        file.write_text(file.read_text()[:-1])

    write = killer.wrap("write", append, tear)
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    kept = [line for line in lines if line.endswith("\n")]
    file.write_text("".join(kept))
    for number in range(start + len(kept), start + 5):
        write(number)


def test_each_moment_of_a_write(tmp_path: Path) -> None:
    kills = [Kill("write", 2, "before"), Kill("write", 1, "torn"), Kill("write", 3, "after")]
    whole, killed = run_killed(count_to_five, tmp_path, kills, start=7)
    assert (whole / "numbers").read_text().split() == ["7", "8", "9", "10", "11"]
    assert (killed / "numbers").read_text() == (whole / "numbers").read_text()


def test_a_kill_that_never_comes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_killed(count_to_five, tmp_path, [Kill("write", 6, "before")], start=7)
