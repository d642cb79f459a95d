"""Replace the files of a folder only after the new ones are whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder``, and move its files there if nothing was raised.

    Files of the same kind that were there before go too: ``from_pretrained`` would read the weights
    of an old shard beside the new ones. Anything else in the folder stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        folder.mkdir(parents=True, exist_ok=True)
        new = {file.name for file in partial.iterdir()}
        for old in folder.glob("*.safetensors*"):
            if old.name not in new:
                old.unlink()
        for file in partial.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
