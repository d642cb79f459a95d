"""From a file to batches: what is read, split, counted, shuffled and resumed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.batches import PreferenceBatch, PromptBatch, RankingBatch, TokenBatch
from lightning_rlhf.data import reader as reading
from lightning_rlhf.data import token_table
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.token_table import held_out, split_key
from lightning_rlhf.models.layout import unpacked
from support import shared

ROWS = [
    {"prompt": f"one {a}", "chosen": f"two {b}", "rejected": f"three {b}"}
    for a in "abcdefg"
    for b in "0123"
]
HELD_OUT = ["2", "6", "17", "18", "23", "29", "34"]


@pytest.fixture
def words(tokenizers: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tokenizers["word_level"]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the modules report."""
    lines: list[str] = []
    monkeypatch.setattr(
        reading, "rank_zero_info", lambda line: lines.append(line) if "rows read" in line else None
    )
    return lines


def ready(data: RowsData) -> RowsData:
    data.setup()
    return data


def rows_of(data: RowsData) -> set[tuple[int, ...]]:
    assert data.train_rows is not None
    return {tuple(ids) for ids in data.train_rows["prompt_ids"]}


# ---- sources ----


def write_csv(path: Path) -> None:
    lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n")


def write_jsonl_gz(path: Path) -> None:
    with gzip.open(path, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ROWS))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, ROWS))),
    "rows.v1.jsonl.gz": write_jsonl_gz,
    "rows.csv": write_csv,
    "rows.parquet": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_rows(
    name: str, words: PreTrainedTokenizerBase, tmp_path: Path, said: list[str]
) -> None:
    WRITERS[name](tmp_path / name)
    data = ready(PreferenceData(str(tmp_path / name), tokenizer=words, val_fraction=0))
    expected = ready(PreferenceData(ROWS, tokenizer=words, val_fraction=0))
    assert data.train_rows is not None
    assert expected.train_rows is not None
    assert data.train_rows.to_list() == expected.train_rows.to_list()
    assert said[0] == f"{tmp_path / name}: 28 rows read, 28 kept"


def test_a_dataset_at_hand(words: PreTrainedTokenizerBase, said: list[str]) -> None:
    data = ready(PreferenceData(datasets.Dataset.from_list(ROWS), tokenizer=words, max_rows=5))
    assert said == ["the Dataset given as source: 5 rows read, 5 kept"]
    assert rows_of(data) <= {tuple(words(f"one {a}").input_ids) for a in "ab"}


def test_columns_are_renamed(words: PreTrainedTokenizerBase) -> None:
    rows = [{"question": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in ROWS]
    names = {"question": "prompt", "good": "chosen", "bad": "rejected", "absent": "margin"}
    renamed = ready(PreferenceData(rows, columns=names, tokenizer=words, val_fraction=0))
    plain = ready(PreferenceData(ROWS, tokenizer=words, val_fraction=0))
    assert renamed.train_rows.to_list() == plain.train_rows.to_list()  # type: ignore[union-attr]


def test_an_answer_in_a_table_may_be_none(
    tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path, said: list[str]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,chosen,rejected,label\none,None,NA,\ntwo,null,nan,0.5\nthree,,a,1\n")
    data = PreferenceData(str(file), tokenizer=tokenizers["byte_level"], val_fraction=0)
    rows = ready(data).train_rows
    assert said == [
        f"{file}: 3 rows read, 2 kept; 1 dropped (chosen is NoneType, not text, first in row 3)"
    ]
    assert rows is not None
    answers = [data.tokenizer.batch_decode(ids) for ids in rows["completion_ids"]]
    assert answers == [["None</s>", "NA</s>"], ["null</s>", "nan</s>"]]
    assert list(rows["label"]) == [None, 0.5]


# ---- what cannot be ----


def refused(data: RowsData, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as raised:
        data.setup()
    return str(raised.value)


def test_a_missing_file(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    for source in (str(tmp_path / "no.jsonl"), "no.csv"):
        data = PromptData(source, tokenizer=words)
        assert refused(data, FileNotFoundError) == f"no data file at {source}"


@pytest.mark.parametrize(
    ("name", "kind"), [("rows.txt", ".txt"), ("rows", "a file without a suffix")]
)
def test_an_unreadable_suffix(
    name: str, kind: str, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text("one")
    assert refused(PromptData(str(file), tokenizer=words)) == (
        f"{file}: cannot read {kind}; known are .json, .jsonl, .parquet, .csv"
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("empty.jsonl", "", "is empty: it holds no rows"),
        ("broken.jsonl", '{"prompt": "one",\n{{', "line 1 is broken JSON: Expecting property name"),
        ("empty.csv", "", "is empty: it holds no rows"),
        ("head.csv", "prompt,chosen,rejected\n", "is empty: it holds no rows"),
    ],
)
def test_an_unreadable_file(
    name: str, text: str, reason: str, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert refused(PromptData(str(file), tokenizer=words)).startswith(f"{file} {reason}")


def test_no_rows(words: PreTrainedTokenizerBase) -> None:
    assert (
        refused(PromptData([], tokenizer=words))
        == "the list given as source is empty: it holds no rows"
    )


def test_wrong_columns(words: PreTrainedTokenizerBase) -> None:
    rows = [{"query": "one", "reply": "two"}]
    have = "the list given as source has the columns {query, reply} but "
    mend = "; rename them with columns={'yours': 'ours'}"
    assert refused(DemonstrationData(rows, tokenizer=words)) == (
        have + "DemonstrationData needs {messages} or {completion, prompt} or {text} or "
        "{chosen, rejected}" + mend
    )
    assert refused(PreferenceData(rows, tokenizer=words)) == (
        have + "PreferenceData needs {chosen, prompt, rejected} or {chosen, rejected} or "
        "{completions, prompt, ranks} or {completions, prompt, ratings} or "
        "{completions, order, prompt} or {completions, prompt} or {completion, label, prompt} or "
        "{label, messages}" + mend
    )
    clash = PromptData([{"a": "one", "prompt": "two"}], columns={"a": "prompt"}, tokenizer=words)
    assert refused(clash) == (
        "the list given as source: columns= calls 'a' 'prompt', "
        "but there is already a column 'prompt'; rename that one too"
    )


def test_no_usable_row(words: PreTrainedTokenizerBase) -> None:
    rows = [
        {"prompt": "one", "chosen": "a", "rejected": "a"},
        {"prompt": "two", "chosen": "b", "rejected": "b"},
        {"prompt": "three", "chosen": "c", "rejected": " "},
    ]
    assert refused(PreferenceData(rows, tokenizer=words)) == (
        "the list given as source: no row can be used: "
        "3 rows read, 0 kept; 2 dropped (identical pair, first in row 1); "
        "1 dropped (empty answer, first in row 3)"
    )


def test_settings_out_of_range(words: PreTrainedTokenizerBase) -> None:
    for fraction in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"val_fraction must lie in \[0, 1\), got {fraction}"):
            PromptData(ROWS, val_fraction=fraction)
    with pytest.raises(ValueError, match="2 or more, got 1"):
        PromptData(ROWS, max_length=1)
    with pytest.raises(ValueError, match="max_rows must be 1 or more, got 0"):
        PromptData(ROWS, max_rows=0)
    one_prompt = PromptData([{"prompt": "one a"}], val_fraction=1 - 2**-53, tokenizer=words)
    assert refused(one_prompt) == (
        "the list given as source: every prompt fell into validation; lower val_fraction"
    )


def test_the_tokenizer_is_the_modules(words: PreTrainedTokenizerBase) -> None:
    data = PromptData(ROWS)
    assert refused(data) == (
        "PromptData needs a tokenizer: give tokenizer=, or fit a module that has one"
    )
    outer, inner = torch.nn.Module(), torch.nn.Module()
    outer.backbone = inner
    inner.tokenizer = words
    data.trainer = SimpleNamespace(lightning_module=outer)  # type: ignore[assignment]
    assert data.tokenizer is words


# ---- counts ----


def test_the_report_counts_what_was_cut_and_dropped(
    words: PreTrainedTokenizerBase, said: list[str]
) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a b c d e f", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b c d e f", "rejected": "c"},
        {"prompt": "a b c d e f", "chosen": "b c d e f", "rejected": "c"},
        {"prompt": "a b c d e f g", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
    ]
    data = ready(PreferenceData(rows, tokenizer=words, max_length=4, val_fraction=0))
    assert said == [
        "the list given as source: 6 rows read, 5 kept; 2 cut to max_length (prompt); "
        "1 cut to max_length (completion); 1 cut to max_length (both); "
        "1 dropped (identical pair, first in row 6)"
    ]
    for batch in data.train_dataloader():
        assert all(p + max(cs) <= 4 for p, *cs in batch.tokens.groups)


@pytest.mark.parametrize(
    ("kind", "file", "columns", "report"),
    [
        (
            PreferenceData,
            "hh-rlhf-harmless/pairs.jsonl",
            {},
            "1,718 rows read, 1,715 kept; 3 dropped (empty answer, first in row 67)",
        ),
        (PreferenceData, "xstest/pairs.jsonl", {}, "316 rows read, 316 kept"),
        (
            DemonstrationData,
            "gsm8k/train.jsonl",
            {"question": "prompt", "answer": "completion"},
            "999 rows read, 999 kept",
        ),
        (
            DemonstrationData,
            "formats/alpaca_demonstrations.json",
            {"instruction": "prompt", "output": "completion"},
            "999 rows read, 999 kept",
        ),
    ],
)
def test_files_of_others(
    kind: type[RowsData],
    file: str,
    columns: dict[str, str],
    report: str,
    tokenizers: dict[str, PreTrainedTokenizerBase],
    said: list[str],
) -> None:
    path = str(shared(f"data/{file}"))
    data = ready(kind(path, columns=columns, tokenizer=tokenizers["byte_level"], max_length=10_000))
    assert said == [f"{path}: {report}"]
    assert data.train_rows is not None
    assert data.val_rows is not None
    openings = set(data.train_rows["opening"]), set(data.val_rows["opening"])
    assert not openings[0] & openings[1]
    share = len(openings[1]) / len(openings[0] | openings[1])
    assert share == pytest.approx(0.05, abs=0.03)


# ---- the split ----


def test_all_rows_of_one_opening_are_on_one_side(words: PreTrainedTokenizerBase) -> None:
    splits = []
    for rows in (ROWS, ROWS[::-1]):
        data = ready(PreferenceData(rows, val_fraction=0.5, tokenizer=words))
        train, val = data.train_rows["opening"], data.val_rows["opening"]  # type: ignore[index]
        assert not set(train) & set(val)
        assert len(train) + len(val) == len(ROWS)
        assert all(list(side).count(o) == 4 for side in (train, val) for o in set(side))
        splits.append(set(val))
    assert splits[0] == splits[1]  # whatever the order of rows


def test_conversations_are_split_by_their_first_question(words: PreTrainedTokenizerBase) -> None:
    def talk(opening: str, turns: int) -> dict[str, Any]:
        said = [opening, "one", "two", "three", "four", "five"][: 2 * turns]
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(said)]}

    rows = [talk(opening, turns) for opening in "abcdefg" for turns in (1, 2, 3)]
    data = ready(DemonstrationData(rows, val_fraction=0.5, tokenizer=words))
    openings = [*data.train_rows["opening"], *data.val_rows["opening"]]  # type: ignore[index]
    assert sorted(openings) == sorted("abcdefg" * 3)
    assert not set(data.train_rows["opening"]) & set(data.val_rows["opening"])  # type: ignore[index]


def test_the_split_is_the_same_in_every_process() -> None:
    """Written down from another process, as ``hash`` would differ between two."""
    keys = np.array([split_key(str(i)) for i in range(1000)], dtype=np.uint64)
    found = {f: set(np.flatnonzero(held_out(keys, f)).tolist()) for f in (0, 0.1, 0.2, 0.3)}
    assert [str(i) for i in range(40) if i in found[0.2]] == HELD_OUT
    assert not found[0]
    nested = found[0.1], found[0.3]
    assert nested[0] < nested[1]
    assert len(nested[1]) == pytest.approx(300, abs=60)  # four standard deviations


def test_validation_of_its_own(words: PreTrainedTokenizerBase, said: list[str]) -> None:
    data = ready(PreferenceData(ROWS[:20], ROWS[18:], tokenizer=words))
    assert len(data.train_rows) == 20  # type: ignore[arg-type]
    assert len(data.val_rows) == 10  # type: ignore[arg-type]
    assert len(said) == 2
    data.setup()  # reads nothing again
    assert len(said) == 2


def test_no_validation(words: PreTrainedTokenizerBase) -> None:
    data = ready(PreferenceData(ROWS, val_fraction=0, tokenizer=words))
    assert data.val_dataloader() == []
    assert len(data.train_rows) == len(ROWS)  # type: ignore[arg-type]


# ---- batches ----


def test_pairs_become_preference_batches(words: PreTrainedTokenizerBase) -> None:
    data = ready(PreferenceData(ROWS, val_fraction=0, batch_size=28, tokenizer=words))
    (batch,) = data.train_dataloader()
    assert isinstance(batch, PreferenceBatch)
    apart = unpacked(batch.tokens, words.pad_token_id)
    texts = [words.decode(ids, skip_special_tokens=True) for ids in apart.input_ids]
    pairs = {(texts[c], texts[r]) for c, r in zip(batch.chosen, batch.rejected, strict=True)}
    assert pairs == {
        (f"{r['prompt']} {r['chosen']}", f"{r['prompt']} {r['rejected']}") for r in ROWS
    }
    assert batch.label is None


def ranking(ranks: list[int]) -> dict[str, Any]:
    return {"prompt": "one", "completions": ["a", "b", "c"][: len(ranks)], "ranks": ranks}


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([ranking([0, 1])], PreferenceBatch),
        ([ranking([1, 2]), ranking([0, 5])], PreferenceBatch),
        ([ranking([1, 0])], RankingBatch),  # the second is the better
        ([ranking([0, 1]), ranking([1, 0])], RankingBatch),
        ([ranking([0, 1]), ranking([2, 1, 0])], RankingBatch),
        ([{"prompt": "one", "completions": ["a", "b"]}], PreferenceBatch),
        ([{"prompt": "one", "completions": ["a", "b"], "ratings": [2.0, 1.0]}], RankingBatch),
    ],
)
def test_rankings_become_ranking_batches(
    rows: list[dict[str, Any]], kind: type, words: PreTrainedTokenizerBase
) -> None:
    data = ready(PreferenceData(rows, val_fraction=0, tokenizer=words, seed=3))
    (batch,) = data.train_dataloader()
    assert type(batch) is kind
    if isinstance(batch, RankingBatch):
        by_group = [batch.rank[batch.group == g].tolist() for g in range(len(rows))]
        wanted = [[1, 0] if "ratings" not in row else [0, 1] for row in rows]
        if all("ranks" in row for row in rows):
            wanted = [row["ranks"] for row in rows]
        assert sorted(by_group) == sorted(wanted)


def test_a_pair_of_kinds_in_train_and_validation(words: PreTrainedTokenizerBase) -> None:
    data = PreferenceData(ROWS, [ranking([2, 0, 1])], tokenizer=words)
    assert isinstance(next(iter(ready(data).train_dataloader())), PreferenceBatch)
    assert isinstance(next(iter(data.val_dataloader())), RankingBatch)


def test_demonstrations_and_prompts(words: PreTrainedTokenizerBase) -> None:
    shown = ready(DemonstrationData(ROWS, val_fraction=0, tokenizer=words))
    batch = next(iter(shown.train_dataloader()))
    assert isinstance(batch, TokenBatch)
    assert set(words.convert_ids_to_tokens(batch.target_ids)) == {"two", *"0123", "</s>"}
    asked = ready(PromptData(ROWS, val_fraction=0, tokenizer=words))
    prompts = next(iter(asked.predict_dataloader()))
    assert isinstance(prompts, PromptBatch)
    assert words.batch_decode(prompts.prompt_ids) == ["one a"] * 4 + ["one b"] * 4


def test_a_tokenizer_without_padding_will_do(words: PreTrainedTokenizerBase) -> None:
    bare = type(words)(
        tokenizer_object=words._tokenizer,
        eos_token="</s>",
        unk_token="<unk>",
    )
    assert bare.pad_token_id is None
    data = ready(PreferenceData(ROWS, val_fraction=0, tokenizer=bare))
    assert next(iter(data.train_dataloader())).tokens.attention_mask.any()


def test_samples_are_held_out_and_different(words: PreTrainedTokenizerBase) -> None:
    data = ready(PreferenceData(ROWS, ROWS[:8], tokenizer=words))
    assert words.batch_decode(data.sample_prompts(5)) == ["one a", "one b"]
    assert words.batch_decode(data.sample_prompts(1)) == ["one a"]
    assert [words.decode(r.completion_ids[0]) for r in data.sample_rows(2)] == [
        "two 0 </s>",
        "two 1 </s>",
    ]


# ---- the order ----


def targets(batch: PreferenceBatch) -> list[int]:
    """A batch's completions, which tell its rows apart."""
    return batch.digest[:, 0].tolist()


def shuffled(words: PreTrainedTokenizerBase, seed: int = 0, max_tokens: int | None = None) -> Any:
    data = PreferenceData(
        ROWS, val_fraction=0, batch_size=3, max_tokens=max_tokens, seed=seed, tokenizer=words
    )
    return ready(data).train_dataloader()


def test_the_order_is_random_and_known(words: PreTrainedTokenizerBase) -> None:
    loader = shuffled(words)
    epochs = [[row for batch in loader for row in targets(batch)] for _ in range(3)]
    again = [row for batch in shuffled(words) for row in targets(batch)]
    other = [row for batch in shuffled(words, seed=1) for row in targets(batch)]
    in_file_order = [
        row
        for batch in ready(PreferenceData(ROWS, ROWS, tokenizer=words)).val_dataloader()
        for row in targets(batch)
    ]
    assert again == epochs[0]
    assert other != epochs[0]
    orders = [*epochs, in_file_order]
    assert len({tuple(order) for order in orders}) == 4
    orders.append(other)
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(in_file_order))}


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("max_tokens", [None, 24])
def test_resumes_in_the_middle_of_an_epoch(
    epoch: int, max_tokens: int | None, words: PreTrainedTokenizerBase
) -> None:
    unbroken = shuffled(words, max_tokens=max_tokens)
    epochs = [[targets(batch) for batch in unbroken] for _ in range(3)]

    broken = shuffled(words, max_tokens=max_tokens)
    for _ in range(epoch):
        list(broken)
    batches = iter(broken)
    before = [targets(next(batches)) for _ in range(4)]
    state = broken.state_dict()
    assert before == epochs[epoch][:4]

    resumed = shuffled(words, max_tokens=max_tokens)
    resumed.load_state_dict(state)
    assert [targets(batch) for batch in resumed] == epochs[epoch][4:]
    assert [targets(batch) for batch in resumed] == epochs[epoch + 1]


def test_a_budget_of_tokens_instead_of_rows(words: PreTrainedTokenizerBase) -> None:
    loader = shuffled(words, max_tokens=24)
    first, second = (list(loader) for _ in range(2))
    assert len(first) == len(second) == len(loader)
    assert all(batch.tokens.input_ids.shape[1] <= 24 for batch in first)
    assert [targets(b) for b in first] != [targets(b) for b in second]
    rows = sorted(row for batch in shuffled(words) for row in targets(batch))
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in targets(batch)) == rows
    data = ready(PreferenceData(ROWS, ROWS, max_tokens=24, tokenizer=words))
    in_order = [row for batch in data.val_dataloader() for row in targets(batch)]
    plain = ready(PreferenceData(ROWS, ROWS, tokenizer=words)).val_dataloader()
    assert in_order == [row for batch in plain for row in targets(batch)]


def test_a_row_above_the_budget_is_refused(words: PreTrainedTokenizerBase) -> None:
    longest = max(b.tokens.input_ids.shape[1] for b in shuffled(words, max_tokens=24))
    assert longest > 3
    assert refused(PreferenceData(ROWS, max_tokens=3, tokenizer=words)).endswith(
        "tokens and max_tokens is 3: raise it, or lower max_length"
    )
    with pytest.raises(ValueError, match="max_tokens must hold a row"):
        PreferenceData(ROWS, max_tokens=1)


@pytest.mark.parametrize("max_tokens", [None, 24])
def test_processes_share_the_rows_out(
    max_tokens: int | None, words: PreTrainedTokenizerBase
) -> None:
    parts = []
    for rank in range(2):
        data = PreferenceData(
            ROWS, val_fraction=0, batch_size=3, max_tokens=max_tokens, tokenizer=words
        )
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank)  # type: ignore[assignment]
        parts.append({r for batch in ready(data).train_dataloader() for r in targets(batch)})
    everything = {row for batch in shuffled(words) for row in targets(batch)}
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == everything


# ---- the cache ----


def test_cached_rows_do_not_outlive_their_code(
    words: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))

    def made(**settings: Any) -> str:
        data = ready(PreferenceData(str(file), val_fraction=0, tokenizer=words, **settings))
        return data.train_rows.cache_files[0]["filename"]  # type: ignore[union-attr]

    first = made()
    assert made() == first
    assert made(max_length=7) != first
    assert made(template="plain") != first
    monkeypatch.setattr(token_table, "CODE", token_table.CODE + "# another line")
    assert made() != first


# ---- more than one file ----


def test_a_folder_and_a_mixture(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 6)):
        rows = [
            {"prompt": "one", "completion": f"{words.decode([10 + first + i])}"} for i in range(6)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, other = (str(tmp_path / f"{name}.jsonl") for name in "ab")

    def answers(source: Any, **settings: Any) -> list[str]:
        data = DemonstrationData(source, val_fraction=0, tokenizer=words, **settings)
        rows = ready(data).train_rows
        return [words.decode(c[0][:-1]) for c in rows["completion_ids"]]  # type: ignore[index]

    a, b = answers(one), answers(other)
    assert answers(str(tmp_path)) == a + b
    found = answers({one: 2.0, other: 0.5})
    assert found[:12] == a + a
    assert len(found) == 15 and set(found[12:]) < set(b)
    assert answers({one: 2.0, other: 0.5}) == found
    # there are 20 shares of three rows, and which is drawn goes by the path too
    assert len({tuple(answers({one: 2.0, other: 0.5}, seed=s)[12:]) for s in range(5)}) > 1
    with pytest.raises(ValueError, match="weight of .*a.jsonl must be above 0, got 0"):
        answers({one: 0.0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no file ending in"):
        answers(str(tmp_path / "empty"))


def test_the_format_is_said_and_can_be_forced(
    words: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"instruction": "one", "input": "", "output": f"two {i}"} for i in range(3)]
    data = DemonstrationData(rows, val_fraction=0, tokenizer=words)
    with caplog.at_level("INFO"):
        ready(data)
    assert "the list given as source: read as alpaca; 3 rows read, 3 kept" in caplog.text
    forced = DemonstrationData(rows, format="sharegpt", val_fraction=0, tokenizer=words)
    assert "so it is not sharegpt: {conversations} is missing" in refused(forced)


def test_rows_of_one_opening_cannot_be_split(
    tokenizers: dict[str, PreTrainedTokenizerBase], caplog: pytest.LogCaptureFixture
) -> None:
    """They fall on one side, whichever it is: said, or refused with what helps."""
    tokenizer = next(t for name, t in tokenizers.items() if "byte" in name)
    caplog.set_level("INFO")
    seen = set()
    for i in range(8):
        opening = f"green tree {i}"
        rows = [
            {"prompt": opening, "chosen": chosen, "rejected": "blue"}
            for chosen in ("red", "green", "tree")
        ]
        data = PreferenceData(rows, tokenizer=tokenizer, val_fraction=0.5, template="raw")
        if held_out(np.array([split_key(opening)], dtype=np.uint64), 0.5)[0]:
            with pytest.raises(ValueError, match="begin with the same user turn; give val_source"):
                data.setup()
            seen.add("refused")
        else:
            caplog.clear()
            data.setup()
            assert "0 of 3 rows are held out" in caplog.text
            seen.add("said")
    assert seen == {"said", "refused"}
