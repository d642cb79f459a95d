"""Find the checkpoint that ``--ckpt_path last`` means."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from lightning_rlhf.training.belonging import differences
from lightning_rlhf.training.checkpoint import check_class
from lightning_rlhf.training.checkpoint_io import SUFFIX, peek


def last_checkpoint(trainer: Trainer, module: LightningModule, data: object, resumes: bool) -> Path:
    """Return the newest checkpoint of a run, also of its earlier starts.

    A logger gives each start a folder of its own, in which Lightning alone would look.

    Args:
        trainer: built.
        module: of the run.
        data: its data module.
        resumes: False if the checkpoint is only evaluated, on whatever data.

    Raises:
        ValueError: there is none, the newest is damaged, or it is of a run with other settings.
    """
    folders = [f for callback in trainer.checkpoint_callbacks for f in _folders(trainer, callback)]
    found = {path for folder in folders for path in folder.glob(f"*{SUFFIX}") if path.is_file()}
    if not found:
        searched = ", ".join(str(folder) for folder in folders) or "no folder"
        raise ValueError(
            f"there is no last checkpoint (searched {searched}): leave out ckpt_path to start anew"
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    stored = peek(newest)
    check_class(stored.get("hyper_parameters", {}), module, str(newest))
    others = differences(stored, module, trainer, data) if resumes else []
    if others:
        raise ValueError(
            f"the last checkpoint, {newest}, is of a run with other settings: {', '.join(others)}; "
            "give its path to go on from it, or leave out ckpt_path to start anew"
        )
    return newest


def _folders(trainer: Trainer, callback: object) -> list[Path]:
    """List the folders in which a callback has saved, or would save."""
    if isinstance(callback, OnExceptionCheckpoint):
        return [Path(callback.dirpath)]
    if not isinstance(callback, ModelCheckpoint):
        return []
    if callback.dirpath is not None:
        return [Path(callback.dirpath)]
    if not trainer.loggers:
        return [Path(trainer.default_root_dir) / "checkpoints"]
    logger = trainer.loggers[0]
    parent = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name)
    return sorted(parent.glob("*/checkpoints")) or [parent]
