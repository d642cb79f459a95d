"""Damaged files are read right, or refused in one sentence that names the file."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from lightning_rlhf import PreferenceData

ROWS = [
    {"id": i, "prompt": f"How far is hill {i}?", "chosen": f"{i} miles, é 🙂", "rejected": "none"}
    for i in range(6)
]
SURROGATE = '"\\ud83d alone"'
Rows = list[dict[str, Any]]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file, index=False)
    return file.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": jsonl,
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": lambda rows: pd.DataFrame(rows).to_csv(index=False).encode(),
    ".parquet": parquet,
    ".jsonl.gz": lambda rows: gzip.compress(jsonl(rows), mtime=0),
    ".csv.gz": lambda rows: gzip.compress(WRITERS[".csv"](rows), mtime=0),
}
MUTATIONS = "cut flip other_suffix empty huge surrogate types insert newline nul".split()


def mutated(draw: random.Random, suffix: str) -> tuple[str, str, bytes]:
    """Return the mutation, the suffix and the content of a damaged file."""
    mutation = draw.choice(MUTATIONS)
    rows = [dict(row) for row in ROWS]
    if mutation == "huge":
        rows[draw.randrange(6)]["chosen"] = "far " * 300_000
    if mutation == "types" and suffix != ".parquet":
        row, column = rows[draw.randrange(6)], draw.choice([*ROWS[0]])
        row[column] = draw.choice([7, 2.5, True, None, "007", ["a"], {"a": 1}, 2**70, "2024-01-01"])
    data = bytearray(WRITERS[suffix](rows))
    place = draw.randrange(len(data))
    if mutation == "cut":
        del data[place:]
    elif mutation == "flip":
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif mutation == "other_suffix":
        suffix = draw.choice([*WRITERS])
    elif mutation == "empty":
        data = bytearray(draw.choice([b"", b"\n\n", b"[]", b"{}", b"prompt,chosen,rejected\n"]))
    elif mutation == "surrogate":
        data = bytearray(bytes(data).replace(b'"none"', SURROGATE.encode(), 1))
    elif mutation == "insert":
        data[place:place] = draw.randbytes(draw.randint(1, 5))
    elif mutation == "newline":
        data[place:place] = b"\n"
    elif mutation == "nul":
        data[place:place] = b"\0"
    return mutation, suffix, bytes(data)


def outcome(file: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Read a file; return "read", or the sentence that refuses it."""
    data = PreferenceData(str(file), tokenizer=tokenizer, val_fraction=0)
    try:
        data.setup()
    except (ValueError, FileNotFoundError) as error:
        if type(error) not in (ValueError, FileNotFoundError):  # a library's
            raise TypeError(type(error)) from error
        return str(error)
    return "read"


def count(folder: Path, tokenizer: PreTrainedTokenizerBase, seeds: range) -> Counter[str]:
    """Damage one file for each seed and count what becomes of them."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        draw = random.Random(seed)
        mutation, suffix, content = mutated(draw, draw.choice([*WRITERS]))
        file = folder / f"rows{seed}{suffix}"
        file.write_bytes(content)
        try:
            said = outcome(file, tokenizer)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {mutation} of {suffix}") from error
        if said != "read":
            assert str(file) in said and "\n" not in said, f"seed {seed}: {said}"
        counts["read" if said == "read" else "refused"] += 1
    return counts


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_whole_file_is_read(
    suffix: str, tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(WRITERS[suffix](ROWS))
    assert outcome(file, tokenizers["byte_level"]) == "read"


@pytest.mark.slow
def test_a_damaged_file_is_read_or_refused_in_a_sentence(
    tokenizers: dict[str, PreTrainedTokenizerBase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    counts = count(tmp_path, tokenizers["byte_level"], range(150))
    assert counts.total() == 150 and min(counts["read"], counts["refused"]) > 20
