"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


def checkpoint_folder(trainer: Trainer) -> Path | None:
    """Return the folder of the first ModelCheckpoint; None if there is none."""
    for callback in trainer.checkpoint_callbacks:  # another callback may save on an exception
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return None


def run_folder(trainer: Trainer) -> Path:
    """Return the folder beside a run's checkpoints, with any logger; make it if absent."""
    folder = checkpoint_folder(trainer)
    if folder is None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)
    elif folder.name == "checkpoints":
        folder = folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rank_file(trainer: Trainer, path: Path) -> Path:
    """Return the path itself, or with several processes one for each: none has to wait."""
    return path if trainer.world_size == 1 else path.with_suffix(f".{trainer.global_rank}.jsonl")
