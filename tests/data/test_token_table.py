"""The table of a million rows: columns without objects, many processes, a cache that lasts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_rlhf.data import token_table
from lightning_rlhf.data.datamodules import PreferenceData
from lightning_rlhf.data.token_table import column, kind_of, processes
from lightning_rlhf.data.tokens import TokenRow

ROWS = [
    {"prompt": f"one {a}", "chosen": f"two {b}", "rejected": "two" if b == "3" else "four"}
    for a in "abcdefg"
    for b in "0123"
]
ROWS[5] = {**ROWS[5], "rejected": ROWS[5]["chosen"]}


@pytest.fixture
def words(tokenizers: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tokenizers["word_level"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_column_is_what_its_rows_say(data: st.DataObject) -> None:
    """Through any chain of selections and concatenations."""
    rows = Dataset.from_list([{"n": i, "s": str(i)} for i in range(20)])
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()) and len(rows) < 60:
            rows = concatenate_datasets([rows, rows])
        elif len(rows):
            rows = rows.select(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20)))
    for name in ("n", "s"):
        assert column(rows, name).to_pylist() == list(rows[name])


def test_many_processes_make_the_same_table(
    words: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, environment, values = [], os.environ, dict(os.environ)
    for name, share in (("one", 100), ("two", 14)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, ROWS)))
        monkeypatch.setattr(token_table, "ROWS_PER_PROCESS", share)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        data = PreferenceData(str(file), val_fraction=0, tokenizer=words)
        data.setup()
        assert data.train_rows is not None
        assert len(data.train_rows.cache_files) == (2 if name == "two" else 1)
        tables.append(data.train_rows.to_list())
    assert len(tables[0]) == len(ROWS) - 1
    assert tables[0] == tables[1]
    assert os.environ is environment, "datasets puts a copy there, which others do not see"
    assert dict(os.environ) == values


def test_as_many_processes_as_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    share = token_table.ROWS_PER_PROCESS
    found = [processes(n) for n in (1, share, 2 * share, 5 * share + 1, 100 * share)]
    assert found == [None, None, 2, 5, 8]


SECOND = """
import sys
from transformers import AutoTokenizer
from lightning_rlhf.data import token_table as rows
from lightning_rlhf.data.datamodules import PreferenceData

def never(*_, **__):
    raise AssertionError("tokenized again")

rows.Maker.table = never
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
data = PreferenceData(sys.argv[1], val_fraction=0, tokenizer=tokenizer)
data.setup()
print(data.train_rows.cache_files[0]["filename"])
"""


def test_another_process_finds_the_table(
    words: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the seed of Python's hashes nor a used tokenizer is part of what it is found by."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    words.save_pretrained(tmp_path / "words")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "words")
    tokenizer("one two")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    data = PreferenceData(str(file), val_fraction=0, tokenizer=tokenizer)
    data.setup()
    assert data.train_rows is not None
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(token_table.__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SECOND, str(file), str(tmp_path / "words")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == data.train_rows.cache_files[0]["filename"]


def test_one_process_of_a_machine_makes_the_table(
    words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning calls ``prepare_data`` in one of them, and ``setup`` in all."""
    made: list[int] = []
    table = token_table.encode_rows

    def counting(rows: Any, maker: Any) -> Any:
        made.append(len(rows))
        return table(rows, maker)

    monkeypatch.setattr("lightning_rlhf.data.reader.encode_rows", counting)
    data = PreferenceData(ROWS, tokenizer=words)
    data.prepare_data()
    data.setup("fit")
    assert made == [len(ROWS)]


@pytest.mark.parametrize(
    ("ranks", "ratings", "kind"),
    [
        ([], None, "prompt"),
        ([0], None, "single"),
        ([0, 1], None, "pair"),
        ([0, 1], [2.0, 1.0], "ranking"),
        ([1, 0], None, "ranking"),
        ([0, 1, 1], None, "ranking"),
    ],
)
def test_kinds(ranks: list[int], ratings: list[float] | None, kind: str) -> None:
    assert kind_of(TokenRow([1], [], [], ranks, ratings)) == kind


def test_a_split_takes_numbers_not_rows() -> None:
    keys = np.array([0, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64)
    assert token_table.held_out(keys, 0.5).tolist() == [True, True, False, False]
    assert token_table.held_out(keys, 0.0).tolist() == [False] * 4
    assert token_table.held_out(keys, 1 - 2**-53).tolist() == [True, True, True, False]
