"""Write and show the rows of every rollout during a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.callbacks.growing_table import GrowingTable
from lightning_rlhf.callbacks.rollout_file import reopen
from lightning_rlhf.callbacks.run_folder import rank_file, run_folder
from lightning_rlhf.callbacks.sample_table import write_table
from lightning_rlhf.modules.samples import Table


@runtime_checkable
class MakesRollouts(Protocol):
    """The interface of a module whose rollouts can be shown."""

    rollouts_made: int  # so far; a checkpoint carries it

    def rollout_table(self) -> Table:
        """Return the rows of the last rollout in this process."""


class RolloutTable(Callback):
    """Write each rollout's prompts, completions, scores, KL, lengths and ends as it is made.

    All rows go to ``rollouts.jsonl`` beside the run, in DDP one file for each process. Process 0
    shows its first rows to every logger that has tables. The file of a run that is killed and
    resumed has each rollout once; a logger may have it twice.

    Args:
        rows: number of rows of a rollout that the loggers get.
        every_n_rollouts: loggers get every n-th rollout; the file gets all.
    """

    def __init__(self, rows: int = 32, every_n_rollouts: int = 1):
        for name, value in (("rows", rows), ("every_n_rollouts", every_n_rollouts)):
            if value < 1:
                raise ValueError(f"RolloutTable's {name} is {value}: give at least 1")
        self.rows = rows
        self.every_n_rollouts = every_n_rollouts
        self.path: Path | None = None
        self.seen = 0  # rollouts in the file
        self._resumed: dict[str, Any] | None = None
        self._shown = GrowingTable("rollouts")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path = None
        if not isinstance(pl_module, MakesRollouts):
            rank_zero_info(
                f"RolloutTable: {type(pl_module).__name__} makes no rollouts, so there is no table"
            )
            return
        before = None
        self.seen = pl_module.rollouts_made
        if self._resumed is not None:
            before = rank_file(trainer, Path(self._resumed["file"]))
            self.seen, self._resumed = self._resumed["rollouts"], None
        self.path = rank_file(trainer, run_folder(trainer).resolve() / "rollouts.jsonl")
        reopen(self.path, self.seen, before)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.path is None or not isinstance(pl_module, MakesRollouts):
            return
        made = pl_module.rollouts_made
        if made == self.seen:
            return
        self.seen = made
        columns, rows = pl_module.rollout_table()
        step = trainer.global_step
        table = Table(["rollout", *columns], [[made, *row] for row in rows])
        write_table(self.path, table, step)
        if trainer.is_global_zero and (made - 1) % self.every_n_rollouts == 0:
            shown = [[step, *row] for row in table.rows[: self.rows]]
            self._shown.append(trainer, Table(["step", *table.columns], shown), step)

    def state_dict(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        return {"rollouts": self.seen, "file": str(self.path.with_name("rollouts.jsonl"))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict or None
