"""One fit in the micro-world, as the benchmarks do it."""

from __future__ import annotations

import time
from pathlib import Path

from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from lightning_rlhf.modules.base import AlignmentModule


def fit(module: AlignmentModule, data: LightningDataModule, folder: Path, epochs: int = 1) -> float:
    """Train a module as any user would; returns the seconds it took."""
    start = time.perf_counter()
    Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=5,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    ).fit(module, data)
    return time.perf_counter() - start
