"""Tables of samples while a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_only

from lightning_rlhf.callbacks.run_folder import run_folder
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.samples import Table


class SampleTable(Callback):
    """After each validation, what every role says to the same held-out prompts (or how rows score).

    Goes to every logger that has tables (Weights & Biases), and to ``samples.jsonl`` beside the
    run, so that loggers without tables lose nothing.

    Args:
        rows: how many prompts.
        max_new_tokens: where an answer is cut.
        every_n_validations: not after each.
    """

    def __init__(self, rows: int = 8, max_new_tokens: int = 64, every_n_validations: int = 1):
        self.rows = rows
        self.max_new_tokens = max_new_tokens
        self.every_n_validations = every_n_validations
        self.seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, AlignmentModule):
            raise ValueError(
                f"SampleTable shows modules of this package, not {type(pl_module).__name__}"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.seen += 1
        if (self.seen - 1) % self.every_n_validations:
            return
        assert isinstance(pl_module, AlignmentModule)  # setup has seen to it
        data = trainer.datamodule  # type: ignore[attr-defined]
        table = pl_module.sample_table(data, self.rows, self.max_new_tokens)
        self._show(trainer, table)

    @rank_zero_only
    def _show(self, trainer: Trainer, table: Table) -> None:
        step = trainer.global_step
        write_table(run_folder(trainer) / "samples.jsonl", table, step)
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                rows = [[step, *row] for row in table.rows]
                logger.log_table("samples", columns=["step", *table.columns], data=rows, step=step)


def write_table(path: Path, table: Table, step: int) -> None:
    """Append a table's rows to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        for row in table.rows:
            named = {"step": step, **dict(zip(table.columns, row, strict=True))}
            file.write(json.dumps(named, ensure_ascii=False) + "\n")
