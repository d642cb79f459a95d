"""Where rows come from: a file, a hub id, or rows at hand."""

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
STREAM = "stream:"  # before a file, folder or hub id: read as it is trained on
OPTIONS: dict[str, dict[str, Any]] = {  # an answer may well be "None"
    "csv": {"keep_default_na": False, "na_values": [""]}
}


def load_rows(source: Source | Dataset | DatasetDict | IterableDataset) -> Any:
    """Rows of a local file or folder, of a hub data set, or as given.

    Args:
        source: a path ending in .json, .jsonl, .parquet or .csv (.gz behind it too), a folder of
            them or one that ``save_to_disk`` wrote, a hub id with its split behind a colon
            ("train" without), a list of rows, or an object of ``datasets``. "stream:" before a
            path or an id reads it row by row.

    Returns:
        A ``Dataset``, or an ``IterableDataset`` of a stream.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a file of a kind nobody here reads, broken, or without rows; a hub id that
            is not there, or not to be had.
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
    """Whether a source is read as it is trained on, and has no length."""
    if isinstance(source, str):
        return source.startswith(STREAM)
    return isinstance(source, IterableDataset | IterableDatasetDict)


def is_mixture(source: Any) -> bool:
    """Whether a source is several with their weights; a dict of splits is none."""
    return isinstance(source, dict) and not isinstance(source, DatasetDict | IterableDatasetDict)


def _one_split(splits: Any, name: str) -> Any:
    """The training split, or the only one; rows that are not split, as they are."""
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
        said = str(error).partition("\n")[0]
        raise ValueError(f"{source} is no file here, and as a hub id it fails: {said}") from error


def _read(kind: str, files: list[str], streamed: bool) -> Any:
    options = {"split": "train", "streaming": streamed, **OPTIONS.get(kind, {})}
    try:
        rows = load_dataset(kind, data_files=files, **options)
    except (DatasetGenerationError, StopIteration, ValueError) as error:
        raise ValueError(unreadable(files, kind, error)) from error
    long = [name for name, kind in (rows.features or {}).items() if kind == LONG_TEXT]
    # so that the tables of a folder fit together: pandas makes long texts of all
    return (
        rows.cast(Features({**rows.features, **dict.fromkeys(long, Value("string"))}))
        if long
        else rows
    )


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
    """The data files of a folder, in the order of their names."""
    files = [f for f in sorted(folder.iterdir()) if READERS.keys() & set(f.suffixes)]
    if not files:
        raise FileNotFoundError(f"{folder} holds no file ending in {', '.join(READERS)}")
    return files


def name_of(source: Any) -> str:
    """How messages call a source."""
    return source if isinstance(source, str) else f"the {type(source).__name__} given as source"


def new_names(there: list[str], columns: dict[str, str], name: str) -> dict[str, str]:
    """Which columns get which of our names.

    Args:
        there: the columns of a source.
        columns: source column -> our name; a column that is not there is passed over.
        name: of the source, for messages.

    Raises:
        ValueError: a name that another column has already.
    """
    names = {old: new for old, new in columns.items() if old in there}
    for old, new in names.items():
        if new in set(there) - set(names):
            raise ValueError(
                f"{name}: columns= calls {old!r} {new!r}, "
                f"but there is a column {new!r} already; rename that one too"
            )
    return names


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
        drawn = np.random.default_rng([seed, *name.encode()]).permutation(len(rows))
        share = np.sort(drawn[: round(weight % 1 * len(rows))])
        parts.append(rows.select(np.concatenate([*[np.arange(len(rows))] * int(weight), share])))
    return concatenate_datasets(parts)
