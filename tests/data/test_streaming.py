"""Streams: the same rows as a table has, a place that is exact, and no row without its count."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, interleave_datasets
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import reader as reading
from lightning_rlhf.data import streaming
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData

WORDS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "a", "b", "c",
    "d", "e", "f", "g", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
]  # fmt: skip
ROWS = [
    {"prompt": f"one {a}", "chosen": f"two {b} {a}", "rejected": " ".join(["three"] * (1 + i % 4))}
    for i, (a, b) in enumerate((a, b) for a in WORDS for b in "abc")
]


@pytest.fixture
def words(tokenizers: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tokenizers["word_level"]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for module in (reading, streaming):
        monkeypatch.setattr(
            module,
            "rank_zero_info",
            lambda line: lines.append(line) if " rows read" in line else None,
        )
    return lines


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 20)
    monkeypatch.setattr(streaming, "CHUNK", 6)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> str:
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(4):
        part = "".join(json.dumps(row) + "\n" for row in ROWS[i::4])
        (folder / f"{i}.jsonl").write_text(part)
    return str(folder)


def trainer(max_steps: int = 1000, rank: int = 0, world: int = 1, **more: Any) -> Any:
    settings = {"accumulate_grad_batches": 1, "limit_train_batches": 1.0, **more}
    return SimpleNamespace(max_steps=max_steps, global_rank=rank, world_size=world, **settings)


def streamed(source: Any, words: Any, run: Any = None, **settings: Any) -> PreferenceData:
    options = {"val_fraction": 0, "batch_size": 3, "tokenizer": words, **settings}
    data = PreferenceData(source if not isinstance(source, str) else f"stream:{source}", **options)
    data.trainer = run
    data.setup("fit" if run is not None else None)
    return data


def digests(batch: Any) -> list[int]:
    return batch.digest[:, 0].tolist()


def of_table(source: Any, words: Any, **settings: Any) -> Counter[int]:
    options = {"val_fraction": 0, "tokenizer": words, **settings}
    data = PreferenceData(source, **options)
    data.setup()
    return Counter(d for batch in data.train_dataloader() for d in digests(batch))


# ---- the rows ----


@pytest.mark.parametrize("max_tokens", [None, 40])
def test_one_pass_has_the_rows_of_the_table(
    max_tokens: int | None, file: str, words: PreTrainedTokenizerBase, said: list[str]
) -> None:
    data = streamed(file, words, max_tokens=max_tokens)
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    for epoch in (first, second):
        assert Counter(d for b in epoch for d in digests(b)) == of_table(file, words)
    assert [digests(b) for b in first] != [digests(b) for b in second]
    in_file_order = [d for b in streamed(file, words).val_dataloader() for d in digests(b)]
    assert [d for b in first for d in digests(b)] != in_file_order
    if max_tokens is not None:
        assert all(b.tokens.input_ids.shape[1] <= max_tokens for b in first)
    assert said[:3] == [
        f"stream:{file}: the first 20 rows read, 20 kept",
        f"stream:{file}, pass 1: 81 rows read, 81 kept",
        f"stream:{file}, pass 2: 81 rows read, 81 kept",
    ]


def test_rows_of_a_block_are_shuffled_and_other_blocks_wait(
    file: str, words: PreTrainedTokenizerBase
) -> None:
    order = [d for b in streamed(file, words).train_dataloader() for d in digests(b)]
    table = PreferenceData(file, val_fraction=0, tokenizer=words, batch_size=20)
    table.setup()
    blocks = [digests(b) for b in table._loader(table.train_rows)]
    for i, block in enumerate(blocks[:4]):
        found = order[40 * i : 40 * i + 40]  # two completions a row
        assert sorted(found) == sorted(block)
        assert found != block
    other = [d for b in streamed(file, words, seed=1).train_dataloader() for d in digests(b)]
    assert other != order and sorted(other) == sorted(order)


def test_held_out_prompts_are_those_of_the_table(file: str, words: PreTrainedTokenizerBase) -> None:
    data = streamed(file, words, val_fraction=0.3)
    table = PreferenceData(file, val_fraction=0.3, tokenizer=words)
    table.setup()
    assert data.val_rows is not None and table.val_rows is not None
    held_out = table.val_rows["opening"]
    assert len(held_out) > 9
    first = {row["prompt"] for row in ROWS[:20]}
    assert (
        list(data.val_rows["opening"]) == [o for o in held_out if o in first][: len(data.val_rows)]
    )
    trained = [d for b in data.train_dataloader() for d in digests(b)]
    assert Counter(trained) == of_table(file, words, val_fraction=0.3)


def test_validation_of_its_own_leaves_nothing_out(
    file: str, words: PreTrainedTokenizerBase
) -> None:
    data = streamed(file, words, val_source=ROWS[:4], val_fraction=0.3)
    assert len(data.val_rows) == 4  # type: ignore[arg-type]
    assert sum(len(b.chosen) for b in data.train_dataloader()) == len(ROWS)


def test_dropped_rows_are_counted(
    tmp_path: Path, words: PreTrainedTokenizerBase, said: list[str]
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]]}
        for row in ROWS[:30]
    ]
    for number, first in ((4, "one " * 30), (25, " "), (26, "one " * 30)):
        rows[number]["completions"][0] = first
    rows[3]["completions"][1] = rows[3]["completions"][0]
    rows[27]["completions"] = ["one", "two", "three"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = streamed(str(path), words, max_length=20, max_tokens=25)
    assert sum(len(b.chosen) for b in data.train_dataloader()) == 27
    assert said[-1] == (
        f"stream:{path}, pass 1: 30 rows read, 27 kept; 2 cut to max_length (completion); "
        "1 dropped (identical once tokenized); 1 dropped (empty answer); "
        "1 dropped (another kind than the first rows)"
    )


def test_rows_above_the_budget_that_come_late_are_counted(
    tmp_path: Path, words: PreTrainedTokenizerBase, said: list[str]
) -> None:
    rows = [*ROWS[:25], {"prompt": "one", "chosen": "two " * 40, "rejected": "three"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    batches = list(streamed(str(path), words, max_tokens=30).train_dataloader())
    assert sum(len(b.chosen) for b in batches) == 25
    assert said[-1].endswith("26 rows read, 25 kept; 1 dropped (longer than max_tokens)")


def test_only_so_many_rows(file: str, words: PreTrainedTokenizerBase) -> None:
    data = streamed(file, words, max_rows=33)
    assert sum(len(b.chosen) for b in data.train_dataloader()) == 33
    assert sum(len(b.chosen) for b in data.train_dataloader()) == 33


# ---- the place ----


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As Lightning keeps and reads it."""
    kept = io.BytesIO()
    torch.save(state, kept)
    kept.seek(0)
    return torch.load(kept, weights_only=True)


@pytest.mark.parametrize("taken", [0, 1, 7, 27, 28, 57])
@pytest.mark.parametrize("settings", [{}, {"max_tokens": 40, "val_fraction": 0.3}], ids=str)
def test_resumes_exactly_wherever_it_stopped(
    taken: int, settings: dict[str, Any], files: str, words: PreTrainedTokenizerBase
) -> None:
    """In a block, between two, at the end of a pass, in the second and the third."""
    unbroken = iter(streamed(files, words, trainer(), **settings).train_dataloader())
    expected = [digests(next(unbroken)) for _ in range(taken + 40)]

    loader = streamed(files, words, trainer(), **settings).train_dataloader()
    batches = iter(loader)
    assert [digests(next(batches)) for _ in range(taken)] == expected[:taken]
    state = through_a_file(loader.state_dict())

    resumed = streamed(files, words, trainer(), **settings)
    loader = resumed.train_dataloader()
    loader.load_state_dict(state)
    batches = iter(loader)
    assert [digests(next(batches)) for _ in range(40)] == expected[taken:]
    again = through_a_file(loader.state_dict())  # and once more from there
    loader = streamed(files, words, trainer(), **settings).train_dataloader()
    loader.load_state_dict(again)
    assert digests(next(iter(loader))) == digests(next(batches))


def test_counts_are_resumed_too(
    files: str, words: PreTrainedTokenizerBase, said: list[str]
) -> None:
    loader = streamed(files, words, trainer()).train_dataloader()
    batches = iter(loader)
    for _ in range(9):
        next(batches)
    resumed = streamed(files, words, trainer())
    again = resumed.train_dataloader()
    again.load_state_dict(loader.state_dict())
    batches = iter(again)
    for _ in range(22):
        next(batches)
    assert said[-1] == f"stream:{files}, pass 1: 81 rows read, 81 kept"
    resumed.teardown("fit")
    assert said[-1] == f"stream:{files}, pass 2: 20 rows read, 20 kept"


def test_the_second_pass_takes_the_files_in_another_order(
    files: str, words: PreTrainedTokenizerBase
) -> None:
    loader = streamed(files, words).train_dataloader()
    passes = [[d for b in loader for d in digests(b)] for _ in range(4)]
    assert len({tuple(sorted(order)) for order in passes}) == 1
    assert len({frozenset(order[:40]) for order in passes}) > 1


@pytest.mark.parametrize("source", ["file", "files"])
def test_processes_share_the_rows_out(
    source: str, words: PreTrainedTokenizerBase, request: pytest.FixtureRequest
) -> None:
    """Whole files where they go round, else every second row."""
    path = request.getfixturevalue(source)
    parts = []
    for rank in range(2):
        data = streamed(path, words, trainer(rank=rank, world=2))
        loader = data.train_dataloader()
        assert len(loader) == 1000
        assert data._stream is not None
        data._stream.length = None  # one pass of it
        parts.append([d for batch in loader for d in digests(batch)])
        look = data.sample_rows(99)
        assert len(look) == 20, "every process looks at the same first rows"
    assert not set(parts[0]) & set(parts[1])
    assert Counter(parts[0] + parts[1]) == of_table(path, words)


def test_several_streams_in_one(words: PreTrainedTokenizerBase) -> None:
    """What a mixture of tables does, ``datasets`` does for streams; its place is kept as well."""

    def source() -> Any:
        parts = [Dataset.from_list(part).to_iterable_dataset() for part in (ROWS[:50], ROWS[50:])]
        return interleave_datasets(parts, probabilities=[0.7, 0.3], seed=0)

    expected = [digests(b) for b in streamed(source(), words).train_dataloader()]
    loader = streamed(source(), words).train_dataloader()
    batches = iter(loader)
    assert [digests(next(batches)) for _ in range(9)] == expected[:9]
    resumed = streamed(source(), words).train_dataloader()
    resumed.load_state_dict(through_a_file(loader.state_dict()))
    assert [digests(b) for b in resumed] == expected[9:]


# ---- its length, and what cannot be ----


def test_its_length_is_the_runs(file: str, words: PreTrainedTokenizerBase) -> None:
    for run, length in (
        (trainer(7, accumulate_grad_batches=3), 21),
        (trainer(-1, limit_train_batches=5), 5),
    ):
        assert len(streamed(file, words, run).train_dataloader()) == length
    with pytest.raises(ValueError) as raised:
        streamed(file, words, trainer(-1))
    assert str(raised.value) == (
        "a stream has no end, and the learning rate must know one: give the Trainer max_steps, or "
        "a whole number as limit_train_batches, which is then an epoch"
    )
    with pytest.raises(TypeError, match="is a stream without a length"):
        len(streamed(file, words).train_dataloader())


def refused(source: Any, words: Any, **settings: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        list(streamed(source, words, **settings).train_dataloader())
    return str(raised.value)


def test_what_cannot_be_streamed(tmp_path: Path, file: str, words: PreTrainedTokenizerBase) -> None:
    assert refused("no.jsonl", words) == "no data file at no.jsonl"
    assert refused({f"stream:{file}": 1.0}, words) == (
        f"stream:{file}: a mixture cannot hold streams; make one stream of several with "
        "datasets.interleave_datasets and give it as source="
    )
    empty, broken, bad = (tmp_path / f"{name}.jsonl" for name in ("empty", "broken", "bad"))
    empty.write_text("")
    assert refused(str(empty), words).startswith((f"stream:{empty} ", f"{empty} "))
    broken.write_text("{{{\n")
    assert "cannot be read" in refused(str(broken), words)
    bad.write_text(json.dumps({**ROWS[0], "rejected": ROWS[0]["chosen"]}) + "\n")
    assert refused(str(bad), words) == (
        f"stream:{bad}: no row can be used: 1 rows read, 0 kept; "
        "1 dropped (identical pair, first in row 1)"
    )

    def break_off(row: dict[str, Any]) -> dict[str, Any]:
        if row["prompt"] == ROWS[45]["prompt"]:
            raise OSError("the line is dead")
        return row

    assert refused(Dataset.from_list(ROWS).to_iterable_dataset().map(break_off), words) == (
        "the IterableDataset given as source cannot be read after 40 rows of pass 1: "
        "the line is dead"
    )


def test_demonstrations_stream_as_well(file: str, words: PreTrainedTokenizerBase) -> None:
    data = DemonstrationData(f"stream:{file}", val_fraction=0, tokenizer=words, batch_size=5)
    data.setup()
    assert sum(len(batch.last_index) for batch in data.train_dataloader()) == len(ROWS)
