"""Files of rows per rollout: a killed and resumed run neither doubles nor loses rows."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning_rlhf.text.jsonl import complete_rows, truncate


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
        end = 0
        for row, after in complete_rows(path):
            if row["rollout"] > rollouts:
                break
            end = after
        truncate(path, end)
