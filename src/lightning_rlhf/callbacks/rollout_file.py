"""Files of rows per rollout: a killed and resumed run neither doubles nor loses rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def reopen(path: Path, rollouts: int, before: Path | None = None) -> None:
    """Make a JSONL file hold the rows of the first rollouts only, whatever was written since.

    A run that starts at none sets an older run's file aside. A run that resumes in a new folder
    takes its rows along.

    Args:
        path: the file to append to from here on; each of its rows has a ``rollout``.
        rollouts: how many of them the checkpoint knows.
        before: the file of the run that wrote the checkpoint.
    """
    if rollouts == 0:
        if path.exists():
            path.replace(path.with_name(f"{path.name}.old"))
        return
    if before is not None and before != path and before.exists() and not path.exists():
        shutil.copyfile(before, path)
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(_end_of(file.readlines(), rollouts))


def _end_of(lines: list[bytes], rollouts: int) -> int:
    """Bytes up to the first row of a later rollout, or the first that a kill left in half."""
    end = 0
    for line in lines:
        if not line.endswith(b"\n") or json.loads(line)["rollout"] > rollouts:
            break
        end += len(line)
    return end
