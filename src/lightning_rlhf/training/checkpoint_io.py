"""Checkpoint files that a kill, a full disk or a flipped bit cannot turn into another run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from lightning_fabric.utilities.cloud_io import get_filesystem
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO

from lightning_rlhf.text.writing import in_turn, part_of, replacing

SUFFIX = ".ckpt"


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written whole and read with care.

    A file is written beside its target, flushed to the disk and renamed. The CRC-32 that torch
    stores of each tensor, and never reads, is checked before anything is loaded. From every address
    only weights are loaded, so no code runs. Another system than the local files is written by
    Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, and clear what killed processes left of theirs.

        Raises:
            ValueError: the disk is full, or the file cannot be written there.
        """
        file = local_file(path)
        if file is None or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with in_turn(file.parent / "checkpoint"):  # so that other parts here are of dead processes
            for part in file.parent.glob(str(part_of(Path(f"*{SUFFIX}")))):
                part.unlink(missing_ok=True)
            with replacing(file) as stream:
                torch.save(checkpoint, stream)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Check and read a checkpoint; ``weights_only=False`` has to be asked for.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, is not a checkpoint, or holds more than weights.
        """
        return read(path, map_location, weights_only is not False)


def install(trainer: Trainer) -> None:
    """Let a Trainer write and read its checkpoints so, unless it was given an own CheckpointIO."""
    strategy = trainer.strategy
    given = strategy._checkpoint_io
    if isinstance(given, _WrappingCheckpointIO):  # such as one that writes in a thread
        if given.checkpoint_io is None or type(given.checkpoint_io) is TorchCheckpointIO:
            given._checkpoint_io = SafeCheckpointIO()
    elif given is None or type(given) is TorchCheckpointIO:
        strategy.checkpoint_io = SafeCheckpointIO()


def local_file(path: str | Path) -> Path | None:
    """Return the path of a local file, also of ``file://``; None for other addresses."""
    system = get_filesystem(path)
    local = "file" in ([p] if isinstance(p := system.protocol, str) else p)
    return Path(system._strip_protocol(str(path))) if local else None


def read(path: str | Path, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """Check and read a checkpoint from a file or an address.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, is not a checkpoint, or holds more than weights.
    """
    source = source_of(path)
    return load(source, path, map_location=map_location, weights_only=weights_only)


def peek(path: str | Path) -> dict[str, Any]:
    """Check and read a checkpoint; the tensors of a local file stay on the disk.

    Raises:
        FileNotFoundError, ValueError: like ``read``.
    """
    source = source_of(path)
    return load(source, path, mmap=isinstance(source, Path))


def source_of(path: Any) -> Any:
    """Return a checked local file, or the checked bytes of an address or of an open file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or is not a checkpoint.
    """
    if not isinstance(path, str | Path):
        content = io.BytesIO(path.read())
    elif (file := local_file(path)) is None:
        content = io.BytesIO(_fetched(str(path)))
    elif file.is_file():
        with file.open("rb") as stream:
            _refuse_damaged(stream, path)
        return file
    else:
        raise FileNotFoundError(f"no checkpoint at {path}: give the path of a {SUFFIX} file")
    _refuse_damaged(content, path)
    return content


def _fetched(address: str) -> bytes:
    try:
        system = get_filesystem(address)
        content: bytes = system.cat_file(system._strip_protocol(address))
    except Exception as error:
        raise FileNotFoundError(f"no checkpoint could be read from {address}: {error}") from error
    return content


def _refuse_damaged(stream: BinaryIO, path: Any) -> None:
    damage = damage_in(stream)
    if damage is not None:
        raise ValueError(damaged(path, damage))
    stream.seek(0)


def load(
    source: Any,
    path: Any,
    *,
    map_location: Any = "cpu",
    weights_only: bool = True,
    mmap: bool = False,
) -> dict[str, Any]:
    """Load what ``source_of`` returned.

    Raises:
        ValueError: it is not a checkpoint, or holds more than weights.
    """
    try:
        stored = torch.load(
            source, map_location=map_location, weights_only=weights_only, mmap=mmap or None
        )
    except UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights, and was not loaded, because loading it could run "
            "code: give a checkpoint that this package has written"
        ) from error
    except Exception as error:
        raise ValueError(damaged(path, "torch cannot read it")) from error
    if not isinstance(stored, dict) or not isinstance(stored.get("state_dict"), dict):
        raise ValueError(not_one(path))
    return stored


def damage_in(stream: BinaryIO) -> str | None:
    """Say what is damaged in a checkpoint's bytes; None if every checksum is right."""
    start = stream.read(2)
    stream.seek(0)
    try:
        with zipfile.ZipFile(stream) as archive:
            bad = archive.testzip()
    except Exception:  # the zip module raises many kinds
        stream.seek(0)
        is_one = start in (b"", b"PK") or zipfile.is_zipfile(stream)
        return "it is not complete, or bytes of it have changed" if is_one else ""
    return None if bad is None else f"the checksum of {bad.partition('/')[2]} is wrong"


def damaged(path: Any, damage: str) -> str:
    """Name a damaged checkpoint, and offer the one before it."""
    if not damage:
        return not_one(path)
    file = local_file(path) if isinstance(path, str | Path) else None
    earlier = None if file is None else intact_before(file)
    offer = (
        f"go on from {earlier}, the one before it"
        if earlier is not None
        else "no earlier checkpoint is beside it: start anew"
    )
    return f"the checkpoint {path} is damaged, {damage}: {offer}"


def not_one(path: Any) -> str:
    """Say that a file is not a checkpoint."""
    return (
        f"{path} is not a checkpoint of a run: give a {SUFFIX} file; a role's folder goes into "
        "backbone.adapters"
    )


def intact_before(file: Path) -> Path | None:
    """Find the newest intact checkpoint that is older than a file in the same folder."""
    written = file.stat().st_mtime_ns
    others = [p for p in file.parent.glob(f"*{SUFFIX}") if p.is_file() and p != file]
    earlier = [p for p in others if p.stat().st_mtime_ns <= written]
    for path in sorted(earlier, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        with path.open("rb") as stream:
            if damage_in(stream) is None:
                return path
    return None
