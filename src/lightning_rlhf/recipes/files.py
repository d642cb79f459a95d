"""Models, adapters and data that a stage takes from outside the recipe are there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_rlhf.data.sources import READERS, STREAM
from lightning_rlhf.models import loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.parsing.parser import AlignmentCLI
from lightning_rlhf.training.checkpoint import check_file


def check_files(cli: AlignmentCLI, checkpoint: str | None, coming: list[str]) -> None:
    """Look for what a module, its data and its checkpoint are read from.

    Args:
        cli: a stage, built.
        checkpoint: its ``ckpt_path``.
        coming: paths that earlier stages will have written.

    Raises:
        FileNotFoundError: names what is not there.
    """
    backbone = getattr(cli.model, "backbone", None)
    if isinstance(backbone, Backbone):
        check_backbone(backbone, coming)
    for key in ("source", "val_source"):
        for source in _named(getattr(cli.datamodule, key, None)):
            if not _coming(source, coming):
                _check_data(source)
    if checkpoint is not None and not _coming(checkpoint, coming):
        check_file(checkpoint)


def check_backbone(backbone: Backbone, coming: list[str]) -> None:
    """The same for a model and its adapters."""
    if not _coming(backbone.name_or_path, coming):
        _check_model(backbone.name_or_path)
    for role, folder in backbone.adapters.items():
        if not _coming(folder, coming) and not (Path(folder) / "adapter_config.json").is_file():
            raise FileNotFoundError(f"adapters: no {role} adapter at {folder}")


def _coming(path: str, coming: list[str]) -> bool:
    return any(Path(path.removeprefix(STREAM)).is_relative_to(output) for output in coming)


def _named(source: Any) -> Iterable[str]:
    """The sources that a string or a mixture names."""
    if isinstance(source, str):
        return [source]
    return [name for name in source if isinstance(name, str)] if isinstance(source, dict) else []


def _check_model(name: str) -> None:
    if not Path(name).is_file():  # a .gguf file is unpacked by whoever loads it
        loading.resolve(name)


def _check_data(source: str) -> None:
    path = Path(source.removeprefix(STREAM)).expanduser()
    local = READERS.keys() & set(path.suffixes) or str(path).startswith((".", "/"))
    if local and not path.exists():
        raise FileNotFoundError(f"no data file at {path}")
