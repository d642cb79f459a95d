"""Go on with another number of processes than a checkpoint was written by."""

from __future__ import annotations

from typing import Any, NamedTuple

from pytorch_lightning import Trainer

from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.sources import is_stream

KEY = "processes"


class Step(NamedTuple):
    """What makes up an optimizer step."""

    processes: int
    batch_size: int | None  # rows; None where ``max_tokens`` cuts batches, or others do
    max_tokens: int | None
    accumulated: int  # batches

    @property
    def rows(self) -> int:
        """Rows of a step, or batches where they are cut by tokens."""
        return self.processes * (self.batch_size or 1) * self.accumulated

    def __str__(self) -> str:
        unit = "rows" if self.max_tokens is None else f"batches of {self.max_tokens} tokens"
        rows = self.batch_size or 1
        return f"{self.processes} x {rows} x {self.accumulated} = {self.rows} {unit}"


def step_of(trainer: Trainer) -> Step:
    """Describe the steps of a run."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    cut = data.max_tokens if isinstance(data, RowsData) else None
    size = data.batch_size if isinstance(data, RowsData) and cut is None else None
    return Step(trainer.world_size, size, cut, trainer.accumulate_grad_batches)


def adapt(checkpoint: dict[str, Any], trainer: Trainer, rollouts: bool, name: str) -> None:
    """Bring a checkpoint's position to this number of processes, or refuse it.

    Processes take the rows of one order in turn. So where a step has as many rows as before, it has
    the same ones; only Lightning's number of batches may be another.

    Args:
        checkpoint: Lightning's, changed in place.
        trainer: of this run.
        rollouts: the method trains on completions that each process has sampled.
        name: of the checkpoint's file.

    Raises:
        ValueError: the run cannot go on as it was; names what to give.
    """
    old, new = Step(*checkpoint[KEY]), step_of(trainer)
    if old.processes == new.processes:
        return
    data = trainer.datamodule  # type: ignore[attr-defined]
    own = (
        "each with a rollout of its own" if rollouts
        else "each with a position of its own" if not isinstance(data, RowsData)
        else "each with a position in the stream" if is_stream(data.source)
        else None
    )  # fmt: skip
    if own is not None:
        raise ValueError(
            f"{name} is of {old.processes} processes, {own}, and this run has {new.processes}: "
            f"resume with {old.processes}, or start anew from its roles (backbone.adapters)"
        )
    if (old.rows, old.max_tokens) != (new.rows, new.max_tokens):
        raise ValueError(
            f"{name} is of steps of {old} (processes x batch x accumulate_grad_batches), and this "
            f"run's are of {new}: give batch_size and accumulate_grad_batches so that a step has "
            "as many as before"
        )
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counted in (progress["total"], progress["current"]):
        for stage in counted:
            counted[stage] = counted[stage] * new.accumulated // old.accumulated
