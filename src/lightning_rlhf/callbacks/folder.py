"""Where a run keeps its files."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


def run_folder(trainer: Trainer) -> Path:
    """The folder beside a run's checkpoints, whichever logger it has; made if absent."""
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
        folder = Path(checkpoint.dirpath)
        folder = folder.parent if folder.name == "checkpoints" else folder
    else:
        folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rank_file(trainer: Trainer, path: Path) -> Path:
    """The path itself, or one of its kind for each of several processes: nobody waits."""
    return path if trainer.world_size == 1 else path.with_suffix(f".{trainer.global_rank}.jsonl")
