"""Classes and functions that the recipes of tests name by their path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from kill_harness import die
from support import number_pairs


class KillAt(Callback):
    """End the process at the stage and step that the variable KILL_AT names."""

    def __init__(self, stage: str):
        self.stage = stage

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if os.environ.get("KILL_AT") == f"{self.stage} {trainer.global_step}":
            die()


def write_pairs(folder: str, seed: int, n: int = 24) -> dict[str, int]:
    """Write rows into the stage's folder."""
    rows = number_pairs(n, seed % 1000)
    Path(folder, "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"pairs": n}


def gate(source: str, least: int = 1) -> dict[str, Any]:
    """Stop a recipe that has too few rows."""
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    if len(rows) < least:
        raise ValueError(f"{source} has {len(rows)} rows, fewer than {least}")
    return {"kept": len(rows), "answers": [[r["prompt"], r["completion"], 0.5] for r in rows[:2]]}


def write_number(folder: str, seed: int, n: int = 1) -> dict[str, Any]:
    """Write a number; return it with the stage's seed and a fact."""
    Path(folder, "number.txt").write_text(str(n))
    return {"n": n, "seed": seed, "kind": "a number"}


def double(folder: str, source: str) -> dict[str, int]:
    """Write twice the number in another file."""
    n = 2 * int(Path(source).read_text())
    Path(folder, "number.txt").write_text(str(n))
    return {"n": n}


def fail_once(folder: str) -> None:
    """Write a file, and stop the recipe at the first call."""
    tried = Path(folder, "tried.txt")
    if not tried.exists():
        tried.write_text("")
        raise ValueError("not yet")


def returns_no_json() -> dict[str, Any]:
    """Return what JSON cannot hold."""
    return {"path": Path()}


def write_file(to: str) -> None:
    """Append to a file that is none of the stage's outputs."""
    with Path(to).open("a") as file:
        file.write("once\n")


def return_this(returned: dict[str, Any]) -> dict[str, Any]:
    """Return the argument."""
    return returned
