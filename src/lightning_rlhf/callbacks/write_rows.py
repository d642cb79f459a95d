"""Write predictions as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lightning_rlhf.callbacks.run_folder import rank_file, run_folder
from lightning_rlhf.text.display import printable
from lightning_rlhf.text.jsonl import append_rows


class WriteRows(Callback):
    """Append what ``predict_step`` returns to a JSONL file, each batch as it is made.

    Each process writes its own file, so none has to wait. With Weights & Biases the file becomes an
    artifact, and so do the files that the module names in ``artifacts``.

    Args:
        path: the file; None for ``predictions.jsonl`` in the run's folder.
    """

    def __init__(self, path: str | None = None):
        self.path = path

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self._file(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        append_rows(self._file(trainer), outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.print(printable(f"predictions written to {self._file(trainer)}"))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict" or not self._file(trainer).is_file():
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for file in (self._file(trainer), *getattr(pl_module, "artifacts", ())):
                    logger.experiment.log_artifact(str(file), name=file.stem, type="rows")

    def _file(self, trainer: Trainer) -> Path:
        path = Path(self.path) if self.path else run_folder(trainer) / "predictions.jsonl"
        return rank_file(trainer, path)
