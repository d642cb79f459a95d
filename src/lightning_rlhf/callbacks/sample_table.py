"""Tables of samples during a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_only

from lightning_rlhf.callbacks.run_folder import run_folder
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.text.jsonl import append_rows, truncate

FILE = "samples.jsonl"


class SampleTable(Callback):
    """After each validation, show the answers of every role to some prompts, or the scores of rows.

    The table goes to every logger that has tables (Weights & Biases), and to ``samples.jsonl``
    beside the run for all others.

    Args:
        rows: number of prompts.
        max_new_tokens: length at which an answer is cut.
        every_n_validations: show it after every n-th validation.
    """

    def __init__(self, rows: int = 8, max_new_tokens: int = 64, every_n_validations: int = 1):
        self.rows = rows
        self.max_new_tokens = max_new_tokens
        self.every_n_validations = every_n_validations
        self.seen = 0
        self._file: Path | None = None
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, AlignmentModule):
            raise ValueError(
                f"SampleTable cannot show {type(pl_module).__name__}: use a module of this "
                "package, or take the callback out"
            )

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take back the rows written after the checkpoint; set another run's file aside."""
        self._file = run_folder(trainer).resolve() / FILE
        state, self._resumed = self._resumed, None
        path = self._file
        if state is None:
            if path.exists() and trainer.global_step == 0:
                path.replace(path.with_name(f"{path.name}.old"))
            return
        before = Path(state["file"])
        if before.is_file() and not path.exists():
            shutil.copyfile(before, path)
        if path.exists():
            truncate(path, min(state["bytes"], path.stat().st_size))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "file": str(self._file or ""), "bytes": _size(self._file)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self._resumed = state_dict["seen"], state_dict if state_dict["file"] else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.seen += 1
        if (self.seen - 1) % self.every_n_validations:
            return
        assert isinstance(pl_module, AlignmentModule)  # checked in setup
        data = trainer.datamodule  # type: ignore[attr-defined]
        table = pl_module.sample_table(data, self.rows, self.max_new_tokens)
        self._show(trainer, table)

    @rank_zero_only
    def _show(self, trainer: Trainer, table: Table) -> None:
        step = trainer.global_step
        assert self._file is not None
        write_table(self._file, table, step)
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                rows = [[step, *row] for row in table.rows]
                logger.log_table("samples", columns=["step", *table.columns], data=rows, step=step)


def _size(file: Path | None) -> int:
    return file.stat().st_size if file is not None and file.exists() else 0


def write_table(path: Path, table: Table, step: int) -> None:
    """Append a table's rows to a JSONL file."""
    rows = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    append_rows(path, ({"step": step, **row} for row in rows))
