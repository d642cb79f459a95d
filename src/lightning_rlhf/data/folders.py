"""Choose the data files of a folder: one split of them, without metadata and hidden files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.text.display import printable

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
# the names of splits, as ``datasets`` knows them
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
OF_WORD = {word: split for split, words in SPLITS.items() for word in words}
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")  # the files of a split as the hub writes them
# what tools write beside data, without the suffix
METADATA = frozenset(
    "_metadata config dataset_dict dataset_info dataset_infos metadata state".split()
)


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of a file, before ".gz"."""
    suffixes = [s.lower() for s in path.suffixes]
    return next((s for s in reversed(suffixes) if s != ".gz"), "")


def split_of(file: Path, folder: Path) -> str:
    """Read the split of a file from its name or its sub-folders; "" if they name none."""
    *folders, name = file.relative_to(folder).parts
    stem = name.split(suffix_of(file))[0] if suffix_of(file) else name
    shard = SHARD.match(stem)
    # "train_prefs-00000-of-00002" is of a split of its own, beside "train_sft"
    if (
        shard
        and shard[1].lower() not in OF_WORD
        and set(shard[1].lower().split("_")) & set(OF_WORD)
    ):
        return shard[1]
    for part in [stem, *reversed(folders)]:
        words = re.split(r"[-._ 0-9]+", part.lower())
        split = next((OF_WORD[word] for word in words if word in OF_WORD), "")
        if split:
            return split
    return ""


def files_of(folder: Path, split: str = "") -> list[Path]:
    """List the data files of a folder's split by name.

    Without a split these are the files of ``train``; else those that name no split; else those of
    the only split. The log names the files that are left.

    Raises:
        FileNotFoundError: there is no data file.
        ValueError: there is no such split, or several but none is train.
    """
    found = [f for f in sorted(folder.rglob("*")) if _is_data(f, folder)]
    files = _data_files(found, folder)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file, folder), []).append(file)
    named = [name for name in by_split if name]
    wanted = OF_WORD.get(split, split)
    if not split:
        wanted = next((name for name in ("train", "") if name in by_split), "")
        if wanted not in by_split:
            wanted = named[0] if len(named) == 1 else ""
    if wanted not in by_split:
        given = f"no split {split}" if split else "no split train"
        there = f" but {', '.join(named)}: give one of them, {folder}:{named[0]}" if named else ""
        raise ValueError(f"{folder} has {given}{there or ': its files name none'}")
    left = [file for file in found if file not in by_split[wanted]]
    if left and not split:
        what = f"split {wanted}, " if wanted else ""
        read = f"{what}{_listed(by_split[wanted], folder)}"
        rank_zero_info(printable(f"{folder}: read {read}; left {_listed(left, folder)}"))
    return by_split[wanted]


def _data_files(found: list[Path], folder: Path) -> list[Path]:
    """Choose the files at the top of a folder and in sub-folders that are splits, else any."""
    files = [f for f in found if f.name.split(".")[0].lower() not in METADATA] or found
    if not files:
        raise FileNotFoundError(f"{folder} holds no file ending in {', '.join(READERS)}")
    top = [f for f in files if f.parent == folder]
    return (
        [f for f in files if f.parent == folder or split_of(f.parent / "x", folder)]
        if top
        else files
    )


def _is_data(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith((".", "__")) for part in parts)
    return not hidden and suffix_of(file) in READERS and file.is_file()


def _listed(files: Iterable[Path], folder: Path, most: int = 5) -> str:
    names = [str(file.relative_to(folder)) for file in files]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
