"""Where rows come from: a file, a hub id, or rows at hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from lightning_rlhf.data.diagnosis import unreadable

Source = str | list[dict[str, Any]]
Mixture = dict[str, float]  # source -> weight
READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
OPTIONS: dict[str, dict[str, Any]] = {  # an answer may well be "None"
    "csv": {"keep_default_na": False, "na_values": [""]}
}


def load_rows(source: Source | Dataset) -> Dataset:
    """Rows of a local file or folder, of a hub data set, or as given.

    Args:
        source: a path ending in .json, .jsonl, .parquet or .csv (.gz behind it too), a folder of
            them, a hub id with its split behind a colon ("train" without), a list of
            rows, or a ``datasets.Dataset``.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a file of a kind nobody here reads, broken, or without rows.
    """
    if isinstance(source, Dataset):
        rows = source
    elif isinstance(source, list):
        rows = Dataset.from_list(source)
    else:
        rows = _load_named(source)
    if len(rows) == 0:
        raise ValueError(f"{name_of(source)} holds no rows")
    return rows


def _load_named(source: str) -> Dataset:
    path = Path(source).expanduser()
    if path.is_dir():
        return concatenate_datasets([_load_named(str(file)) for file in _files_of(path)])
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    if path.is_file() or suffix in READERS or source.startswith((".", "/", "~")):
        if not path.is_file():
            raise FileNotFoundError(f"no data file at {path}")
        if suffix not in READERS:
            raise ValueError(
                f"{path}: cannot read {suffix or 'a file without a suffix'}; "
                f"known are {', '.join(READERS)}"
            )
        kind = READERS[suffix]
        try:
            return load_dataset(kind, data_files=str(path), split="train", **OPTIONS.get(kind, {}))
        except (DatasetGenerationError, StopIteration, ValueError) as error:
            raise ValueError(unreadable(path, kind, error)) from error
    name, _, split = source.partition(":")
    return load_dataset(name, split=split or "train")


def _files_of(folder: Path) -> list[Path]:
    """The data files of a folder, in the order of their names."""
    files = [f for f in sorted(folder.iterdir()) if READERS.keys() & set(f.suffixes)]
    if not files:
        raise FileNotFoundError(f"{folder} holds no file ending in {', '.join(READERS)}")
    return files


def name_of(source: Source | Dataset) -> str:
    """How messages call a source."""
    return source if isinstance(source, str) else f"the {type(source).__name__} given as source"


def renamed(rows: Dataset, columns: dict[str, str], name: str) -> Dataset:
    """Rows under our names of their columns.

    Args:
        rows: as read.
        columns: source column -> our name; a column that is not there is passed over.
        name: of the source, for messages.

    Raises:
        ValueError: a name that another column has already.
    """
    names = {old: new for old, new in columns.items() if old in rows.column_names}
    for old, new in names.items():
        if new in set(rows.column_names) - set(names):
            raise ValueError(
                f"{name}: columns= calls {old!r} {new!r}, "
                f"but there is a column {new!r} already; rename that one too"
            )
    return rows.rename_columns(names)


def mixed(made: dict[str, Dataset], weights: Mixture, seed: int) -> Dataset:
    """Sources together, each with so many of its rows as its weight says, drawn at random.

    Args:
        made: name -> rows.
        weights: name -> weight; the whole part is how often every row is there, the rest a share.
        seed: of the share that is drawn.

    Raises:
        ValueError: a weight that is not above 0.
    """
    parts = []
    for name, rows in made.items():
        weight = weights[name]
        if not weight > 0:
            raise ValueError(f"the weight of {name} must be above 0, got {weight}")
        drawn = random.Random(f"{seed} {name}").sample(range(len(rows)), len(rows))
        chosen = list(range(len(rows))) * int(weight)
        chosen += sorted(drawn[: round(weight % 1 * len(rows))])
        parts.append(rows.select(chosen))
    return concatenate_datasets(parts)
