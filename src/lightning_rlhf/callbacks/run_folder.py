"""Where a run keeps its files."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


def checkpoint_folder(trainer: Trainer) -> Path | None:
    """Where the first ModelCheckpoint writes; None where there is none."""
    for callback in trainer.checkpoint_callbacks:  # others may save on an exception, say
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return None


def run_folder(trainer: Trainer) -> Path:
    """The folder beside a run's checkpoints, whichever logger it has; made if absent."""
    folder = checkpoint_folder(trainer)
    if folder is None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)
    elif folder.name == "checkpoints":
        folder = folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rank_file(trainer: Trainer, path: Path) -> Path:
    """The path itself, or one of its kind for each of several processes: nobody waits."""
    return path if trainer.world_size == 1 else path.with_suffix(f".{trainer.global_rank}.jsonl")
