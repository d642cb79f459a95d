"""Load rows from a file, a folder, a hub id or memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError

from lightning_rlhf.data.diagnosis import unreadable

Source = str | list[dict[str, Any]]  # or an object of ``datasets``, which no YAML can hold
Mixture = dict[str, float]  # source -> weight
READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
LONG_TEXT = Value("large_string")
STREAM = "stream:"  # prefix of a file, folder or hub id that is read row by row during training
OPTIONS: dict[str, dict[str, Any]] = {  # an answer may be the word "None"
    "csv": {"keep_default_na": False, "na_values": [""]}
}


def load_rows(source: Source | Dataset | DatasetDict | IterableDataset) -> Any:
    """Load the rows of a local file or folder, or of a hub data set; given rows stay as they are.

    Args:
        source: a path ending in .json, .jsonl, .parquet or .csv (.gz behind it too), a folder of
            them or one that ``save_to_disk`` wrote, a hub id with its split behind a colon
            ("train" without), a list of rows, or an object of ``datasets``. "stream:" before a
            path or an id reads it row by row.

    Returns:
        A ``Dataset``, or an ``IterableDataset`` of a stream.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of an unknown kind, broken, or without rows; or the hub id cannot
            be loaded.
    """
    rows: Any = source
    if isinstance(source, list):
        rows = Dataset.from_list(source)
    elif isinstance(source, str):
        streamed = source.startswith(STREAM)
        rows = _load_named(source.removeprefix(STREAM), streamed)
    rows = _one_split(rows, name_of(source))
    if isinstance(rows, Dataset) and len(rows) == 0:
        raise ValueError(f"{name_of(source)} holds no rows")
    return rows


def is_stream(source: Any) -> bool:
    """Tell whether a source is read row by row during training, and has no length."""
    if isinstance(source, str):
        return source.startswith(STREAM)
    return isinstance(source, IterableDataset | IterableDatasetDict)


def is_mixture(source: Any) -> bool:
    """Tell whether a source is a dict of sources and weights; a dict of splits is not."""
    return isinstance(source, dict) and not isinstance(source, DatasetDict | IterableDatasetDict)


def _one_split(splits: Any, name: str) -> Any:
    """Return the training split, or the only one; rows without splits are returned as they are."""
    if not isinstance(splits, DatasetDict | IterableDatasetDict):
        return splits
    if "train" not in splits and len(splits) > 1:
        raise ValueError(f"{name} has no split train but {', '.join(splits)}: give one of them")
    return splits["train" if "train" in splits else next(iter(splits))]


def _load_named(source: str, streamed: bool) -> Any:
    path = Path(source).expanduser()
    if path.is_dir():
        if {"state.json", "dataset_dict.json"} & {file.name for file in path.iterdir()}:
            rows = _one_split(load_from_disk(str(path)), str(path))
            return rows.to_iterable_dataset() if streamed else rows
        by_kind: dict[str, list[str]] = {}
        for file in _files_of(path):
            by_kind.setdefault(_kind_of(file), []).append(str(file))
        if streamed:
            return concatenate_datasets([_read(k, f, True) for k, f in by_kind.items()])
        return concatenate_datasets([_load_named(str(file), False) for file in _files_of(path)])
    suffix = _suffix(path)
    if path.is_file() or suffix in READERS or source.startswith((".", "/", "~")):
        if not path.is_file():
            raise FileNotFoundError(f"no data file at {path}")
        return _read(_kind_of(path), [str(path)], streamed)
    name, _, split = source.partition(":")
    try:
        return load_dataset(name, split=split or "train", streaming=streamed)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{source} is not a file, and as a hub id it cannot be loaded: {reason}"
        ) from error


def _read(kind: str, files: list[str], streamed: bool) -> Any:
    options = {"split": "train", "streaming": streamed, **OPTIONS.get(kind, {})}
    try:
        rows = load_dataset(kind, data_files=files, **options)
    except (DatasetGenerationError, StopIteration, ValueError) as error:
        raise ValueError(unreadable(files, kind, error)) from error
    long = [name for name, kind in (rows.features or {}).items() if kind == LONG_TEXT]
    if not long:
        return rows
    # pandas reads long texts as large_string; the tables of a folder need one type
    return rows.cast(Features({**rows.features, **dict.fromkeys(long, Value("string"))}))


def _suffix(path: Path) -> str:
    return next((s for s in reversed(path.suffixes) if s != ".gz"), "")


def _kind_of(path: Path) -> str:
    suffix = _suffix(path)
    if suffix not in READERS:
        raise ValueError(
            f"{path}: cannot read {suffix or 'a file without a suffix'}; "
            f"known are {', '.join(READERS)}"
        )
    return READERS[suffix]


def _files_of(folder: Path) -> list[Path]:
    """List the data files of a folder by name."""
    files = [f for f in sorted(folder.iterdir()) if READERS.keys() & set(f.suffixes)]
    if not files:
        raise FileNotFoundError(f"{folder} holds no file ending in {', '.join(READERS)}")
    return files


def name_of(source: Any) -> str:
    """Name a source in messages."""
    return source if isinstance(source, str) else f"the {type(source).__name__} given as source"


def new_names(there: list[str], columns: dict[str, str], name: str) -> dict[str, str]:
    """Choose the renames that apply to a source.

    Args:
        there: the columns of the source.
        columns: source column -> our name; a column that is absent is ignored.
        name: of the source, for messages.

    Raises:
        ValueError: another column already has the new name.
    """
    names = {old: new for old, new in columns.items() if old in there}
    for old, new in names.items():
        if new in set(there) - set(names):
            raise ValueError(
                f"{name}: columns= calls {old!r} {new!r}, "
                f"but there is already a column {new!r}; rename that one too"
            )
    return names


def mixed(sources: dict[str, Dataset], weights: Mixture, seed: int) -> Dataset:
    """Concatenate sources, each with a number of its rows in proportion to its weight.

    Args:
        sources: name -> rows.
        weights: name -> weight; its whole part is how often every row occurs, the rest is the share
            of rows that occur once more.
        seed: of the draw of that share.

    Raises:
        ValueError: a weight is not above 0.
    """
    parts = []
    for name, rows in sources.items():
        weight = weights[name]
        if not weight > 0:
            raise ValueError(f"the weight of {name} must be above 0, got {weight}")
        drawn = np.random.default_rng([seed, *name.encode()]).permutation(len(rows))
        share = np.sort(drawn[: round(weight % 1 * len(rows))])
        parts.append(rows.select(np.concatenate([*[np.arange(len(rows))] * int(weight), share])))
    return concatenate_datasets(parts)
