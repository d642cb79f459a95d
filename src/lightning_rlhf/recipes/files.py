"""Check that the models, adapters and data files which a stage reads exist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_rlhf.data.sources import STREAM, local_path
from lightning_rlhf.models import loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.parsing.parser import AlignmentCLI
from lightning_rlhf.training.checkpoint import check_file


def check_files(cli: AlignmentCLI, checkpoint: str | None, promised: list[str]) -> None:
    """Check the files that a stage's module, data and checkpoint are read from.

    Args:
        cli: the stage, built.
        checkpoint: its ``ckpt_path``.
        promised: paths that earlier stages will have written.

    Raises:
        FileNotFoundError: a file is missing; names it.
    """
    backbone = getattr(cli.model, "backbone", None)
    if isinstance(backbone, Backbone):
        check_backbone(backbone, promised)
    for key in ("source", "val_source"):
        for source in _sources(getattr(cli.datamodule, key, None)):
            if not _promised(source, promised):
                _check_data(source)
    if checkpoint is not None and not _promised(checkpoint, promised):
        check_file(checkpoint)


def check_backbone(backbone: Backbone, promised: list[str]) -> None:
    """Check the files of a model and its adapters."""
    if not _promised(backbone.name_or_path, promised):
        _check_model(backbone.name_or_path)
    for role, folder in backbone.adapters.items():
        if not _promised(folder, promised) and not (Path(folder) / "adapter_config.json").is_file():
            raise FileNotFoundError(f"adapters: no {role} adapter at {folder}")


def _promised(path: str, promised: list[str]) -> bool:
    names = path.removeprefix(STREAM), path.removeprefix(STREAM).split(":")[0]
    return any(Path(name).is_relative_to(output) for output in promised for name in names)


def _sources(source: Any) -> Iterable[str]:
    """Return the sources that a string or a mixture names."""
    if isinstance(source, str):
        return [source]
    return [name for name in source if isinstance(name, str)] if isinstance(source, dict) else []


def _check_model(name: str) -> None:
    if not Path(name).is_file():  # a .gguf file is read when it is loaded
        loading.resolve(name)


def _check_data(source: str) -> None:
    path = local_path(source)
    if path is not None and not path.exists():
        raise FileNotFoundError(f"no data file at {path}")
