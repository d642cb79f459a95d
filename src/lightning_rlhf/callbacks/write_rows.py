"""Write predictions as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lightning_rlhf.callbacks.run_folder import rank_file, run_folder
from lightning_rlhf.text.display import printable
from lightning_rlhf.text.jsonl import append_rows
from lightning_rlhf.text.writing import claim, writing


class WriteRows(Callback):
    """Append what ``predict_step`` returns to a JSONL file, each batch as it is made.

    Each process writes its own file, so none has to wait. With Weights & Biases the file becomes an
    artifact, and so do the files that the module names in ``artifacts``. Rows of an earlier start
    stay as ``NAME.old`` until the new ones are whole. One process at a time writes a file.

    Args:
        path: the file; None for ``predictions.jsonl`` in the run's folder.
    """

    def __init__(self, path: str | None = None):
        self.path = path
        self._lock: FileLock | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claim the file, and set the rows of an earlier start aside until these are whole."""
        path = self._file(trainer)
        self._lock = claim(path, "wait for it to end, or give another path")
        with writing(path):
            if path.exists() and not _aside(path).exists():  # else these rows are not whole
                path.replace(_aside(path))
            path.write_bytes(b"")

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
        _aside(self._file(trainer)).unlink(missing_ok=True)
        pl_module.print(printable(f"predictions written to {self._file(trainer)}"))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()
        if stage != "predict" or not self._file(trainer).is_file():
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for file in (self._file(trainer), *getattr(pl_module, "artifacts", ())):
                    logger.experiment.log_artifact(str(file), name=file.stem, type="rows")

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _file(self, trainer: Trainer) -> Path:
        path = Path(self.path) if self.path else run_folder(trainer) / "predictions.jsonl"
        return rank_file(trainer, path)


def _aside(path: Path) -> Path:
    """Where the rows of an earlier start are while new ones are written."""
    return path.with_name(f"{path.name}.old")
