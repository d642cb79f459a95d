"""Load rows from a file, a folder, a hub id or memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)

from lightning_rlhf.data.files import read_files
from lightning_rlhf.data.folders import OF_WORD, READERS, files_of, suffix_of
from lightning_rlhf.data.tables import from_memory, joined

Source = str | list[dict[str, Any]]  # or what no YAML can hold: a Path, a data frame, a Dataset
Mixture = dict[str, float]  # source -> weight
STREAM = "stream:"  # prefix of a file, folder or hub id that is read row by row during training


def load_rows(source: Any, columns: Mapping[str, str] | None = None) -> Any:
    """Load the rows of a local file or folder, or of a hub data set; given rows stay as they are.

    Args:
        source: a path ending in .json, .jsonl, .parquet or .csv (.gz behind it too), a folder of
            them or one that ``save_to_disk`` wrote, a hub id; behind a colon a split ("train"
            without), a config, or both ("openai/gsm8k:main:test"); a list of rows, a dict of
            columns, a data frame or an object of ``datasets``. "stream:" before a path or an id
            reads it row by row.
        columns: source column -> our name: it tells which columns hold text.

    Returns:
        A ``Dataset``, or an ``IterableDataset`` of a stream.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of an unknown kind, broken, or without rows; or the hub id cannot
            be loaded.
    """
    name = name_of(source)
    if isinstance(source, str | Path):
        streamed = name.startswith(STREAM)
        rows = _load_named(name.removeprefix(STREAM), streamed, columns or {})
    elif isinstance(source, Dataset | DatasetDict | IterableDataset | IterableDatasetDict):
        rows = source
    else:
        rows = from_memory(source, name)
    rows = _one_split(rows, name)
    if isinstance(rows, Dataset) and len(rows) == 0:
        raise ValueError(f"{name} is empty: it holds no rows")
    return rows


def is_stream(source: Any) -> bool:
    """Tell whether a source is read row by row during training, and has no length."""
    if isinstance(source, str):
        return source.startswith(STREAM)
    return isinstance(source, IterableDataset | IterableDatasetDict)


def is_mixture(source: Any) -> bool:
    """Tell whether a source is a dict of sources and weights; one of splits or columns is not."""
    if not isinstance(source, dict) or isinstance(source, DatasetDict | IterableDatasetDict):
        return False
    return not source or not all(
        hasattr(v, "__len__") and not isinstance(v, str) for v in source.values()
    )


def local_path(source: str) -> Path | None:
    """Return the path of a local source, without "stream:" and a split; None for a hub id."""
    name = source.removeprefix(STREAM)
    path = Path(name).expanduser()
    if not path.exists():
        path = Path(name.split(":")[0]).expanduser()
    local = suffix_of(path) in READERS or name.startswith((".", "/", "~"))
    return path if local or path.exists() else None


def _one_split(splits: Any, name: str, wanted: str = "") -> Any:
    """Return the training split, or the only one; rows without splits are returned as they are."""
    if not isinstance(splits, DatasetDict | IterableDatasetDict):
        if wanted:
            raise ValueError(f"{name} has no splits: leave out :{wanted}")
        return splits
    if wanted and wanted not in splits:
        raise ValueError(f"{name} has no split {wanted} but {', '.join(splits)}: give one of them")
    if not wanted and "train" not in splits and len(splits) > 1:
        raise ValueError(f"{name} has no split train but {', '.join(splits)}: give one of them")
    return splits[wanted or ("train" if "train" in splits else next(iter(splits)))]


def _load_named(source: str, streamed: bool, columns: Mapping[str, str]) -> Any:
    path = local_path(source)
    if path is None:
        return _load_set(source, *source.split(":"), streamed=streamed)
    parts = source.split(":")[1:] if str(path) != str(Path(source).expanduser()) else []
    if path.is_dir():
        return _load_folder(path, parts, streamed, columns)
    if not path.is_file():
        raise FileNotFoundError(f"no data file at {path}")
    if parts:
        raise ValueError(f"{path} is a file, which has no splits: leave out :{':'.join(parts)}")
    return read_files([path], streamed, columns)


def _load_folder(path: Path, parts: list[str], streamed: bool, columns: Mapping[str, str]) -> Any:
    split = parts[0] if parts else ""
    if {"state.json", "dataset_dict.json"} & {file.name for file in path.iterdir()}:
        rows = _one_split(_from_disk(path), str(path), split)
        return rows.to_iterable_dataset() if streamed else rows
    if len(parts) > 1 or _has_configs(path):
        return _load_set(str(path), str(path), *parts, streamed=streamed)
    files = files_of(path, split)
    if not streamed:
        return joined([read_files([f], False, columns) for f in files], [str(f) for f in files])
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(READERS[suffix_of(file)], []).append(file)
    return concatenate_datasets([read_files(f, True, columns) for f in by_kind.values()])


def _from_disk(path: Path) -> Any:
    try:
        return load_from_disk(str(path))
    except Exception as error:  # its files may lack or be cut anywhere
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} looks like a folder of save_to_disk, but cannot be read: {reason}; "
            "write it again"
        ) from error


def _has_configs(folder: Path) -> bool:
    """Tell whether the README.md of a folder describes its configs, as on the hub."""
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---")
    return (
        not parts[0].strip()
        and len(parts) > 2
        and re.search(r"^configs:", parts[1], re.M) is not None
    )


def _load_set(source: str, name: str, *parts: str, streamed: bool) -> Any:
    """Load a hub data set, or a folder with a description as on the hub.

    Args:
        source: as it was given, for messages.
        name: its id or folder.
        parts: nothing, a split, a config, or a config and a split.
        streamed: True to read it during training.
    """
    config, split = parts if len(parts) == 2 else ("", *parts, "")[:2]
    if len(parts) > 2:
        raise ValueError(f"{source} has too many colons: write {name}:config:split")
    try:
        return _loaded(name, config, split or "train", streamed)
    except Exception as error:  # a loader script or the hub may raise anything
        reason = str(error)
    configs, splits = _listed("configs: ", reason), _listed("one of ", reason)
    configs = configs or _listed("Available: ", reason)
    splits = splits or _listed("splits: ", reason)
    try:
        if split in configs and not config:
            return _loaded(name, split, "train", streamed)
        if len(splits) == 1 and not split:
            return _loaded(name, config, splits[0], streamed)
        if splits and split and not config:  # the default config has no such split
            return _loaded(name, split, "train", streamed)
    except Exception as error:
        reason = reason if splits else str(error)
    raise ValueError(_refusal(source, name, reason, configs))


def _loaded(name: str, config: str, split: str, streamed: bool) -> Any:
    given = (name, config) if config else (name,)
    try:
        return load_dataset(*given, split=split, streaming=streamed)
    except ValueError:
        if split not in OF_WORD or OF_WORD[split] == split:
            raise
        return load_dataset(*given, split=OF_WORD[split], streaming=streamed)


def _listed(before: str, reason: str) -> list[str]:
    """Read the names in a list that a message of ``datasets`` gives."""
    found = re.search(re.escape(before) + r"\[([^\]]*)\]", reason)
    return re.findall(r"'([^']*)'", found[1]) if found else []


def _refusal(source: str, name: str, reason: str, configs: list[str]) -> str:
    if configs:
        first = configs[0]
        return (
            f"{source} has the configs {', '.join(configs)}: name one behind a colon, "
            f"{name}:{first}, or with a split {name}:{first}:train"
        )
    reason = reason.partition("\n")[0]
    kind = "a folder" if Path(name).is_dir() else "a hub id"
    there = "is not a file, and as" if kind == "a hub id" else "is described by its README.md; as"
    return f"{source} {there} {kind} it cannot be loaded: {reason}"


def name_of(source: Any) -> str:
    """Name a source in messages."""
    if isinstance(source, str | Path):
        return str(source)
    return f"the {type(source).__name__} given as source"


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
