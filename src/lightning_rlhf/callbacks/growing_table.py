"""Tables that grow during a run, in the form that each logger has."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_rlhf.modules.samples import Table


class GrowingTable:
    """One table per logger, to which each call appends; for process 0 only.

    Weights & Biases gets an incremental table, which uploads new rows only. Another logger with
    ``log_table`` gets a table per step, TensorBoard gets Markdown, any other logger nothing.

    Args:
        name: of the table in the loggers.
    """

    def __init__(self, name: str):
        self.name = name
        self._tables: dict[int, Any] = {}  # by the id of the logger

    def append(self, trainer: Trainer, table: Table, step: int) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._append_wandb(logger, table, step)
            elif hasattr(logger, "log_table"):
                logger.log_table(self.name, columns=table.columns, data=table.rows, step=step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(self.name, _markdown(table), step)

    def _append_wandb(self, logger: Logger, table: Table, step: int) -> None:
        import wandb

        if id(logger) not in self._tables:
            self._tables[id(logger)] = wandb.Table(columns=[*table.columns], log_mode="INCREMENTAL")
        grown = self._tables[id(logger)]
        for row in table.rows:
            grown.add_data(*row)
        logger.log_metrics({self.name: grown}, step)


def _markdown(table: Table) -> str:
    def line(cells: list[Any]) -> str:
        texts = [str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in cells]
        return f"| {' | '.join(texts)} |\n"

    rows = "".join(line(row) for row in table.rows)
    return line(table.columns) + line(["---"] * len(table.columns)) + rows
