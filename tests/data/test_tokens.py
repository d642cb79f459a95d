"""Cut to length, with the cut counted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import tokens
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import Report
from lightning_rlhf.data.tokens import TokenRow, fit_length
from lightning_rlhf.text.messages import BadRow


@pytest.fixture(scope="session")
def chat(tokenizers: dict[str, PreTrainedTokenizerBase]) -> ChatTemplate:
    """A template of words, one token each."""
    return ChatTemplate(tokenizers["word_level"])


def ids(chat: ChatTemplate, text: str) -> list[int]:
    return [chat.tokenizer.convert_tokens_to_ids(word) for word in text.split()]


# ---- fit_length ----


def numbered(sizes: tuple[int, list[int]]) -> tuple[list[int], list[list[int]]]:
    """A prompt and completions of these lengths, no two tokens alike."""
    prompt, completions = sizes
    return list(range(prompt)), [
        [1000 * (k + 1) + i for i in range(n)] for k, n in enumerate(completions)
    ]


rows = st.tuples(st.integers(0, 30), st.lists(st.integers(1, 30), min_size=1, max_size=4))


@settings(max_examples=300, deadline=None)
@given(sizes=rows, max_length=st.integers(2, 40))
def test_what_fit_length_promises(sizes: tuple[int, list[int]], max_length: int) -> None:
    prompt, completions = numbered(sizes)
    new_prompt, kept, cut = fit_length(prompt, completions, max_length)

    assert all(len(new_prompt) + len(c) <= max_length for c in kept)
    assert all(c and c == whole[: len(c)] for c, whole in zip(kept, completions, strict=True))
    assert new_prompt[:1] == prompt[:1]  # BOS stays
    rest = len(new_prompt) - 1
    assert rest <= 0 or new_prompt[1:] == prompt[-rest:]
    assert len(new_prompt) >= min(len(prompt), max_length // 2)

    lost_left, lost_right = len(new_prompt) < len(prompt), kept != completions
    names = {(0, 0): "", (1, 0): "prompt", (0, 1): "completion", (1, 1): "both"}
    assert cut == names[lost_left, lost_right]
    assert (cut == "") == (len(prompt) + max(map(len, completions)) <= max_length)
    # the inputs are the caller's
    assert (prompt, completions) == numbered(sizes)


@settings(max_examples=200, deadline=None)
@given(sizes=rows, max_length=st.integers(2, 40))
def test_fit_length_keeps_all_that_fits(sizes: tuple[int, list[int]], max_length: int) -> None:
    """Against a search: of all cuts that leave a prompt its half, the one with most tokens."""
    size, lengths = sizes
    prompt, completions = numbered(sizes)
    new_prompt, kept, _ = fit_length(prompt, completions, max_length)
    best = max(
        (sum(min(n, room) for n in lengths), left)
        for left in range(min(size, max_length // 2), size + 1)
        for room in range(1, max_length + 1)
        if left + max(min(n, room) for n in lengths) <= max_length
    )
    assert (sum(map(len, kept)), len(new_prompt)) == best


def test_fit_length_by_hand() -> None:
    assert fit_length([1, 2, 3], [[4, 5], [6]], 5) == ([1, 2, 3], [[4, 5], [6]], "")
    assert fit_length([1, 2, 3, 4], [[5, 6], [7]], 4) == ([1, 4], [[5, 6], [7]], "prompt")
    assert fit_length([1], [[5, 6, 7], [8]], 3) == ([1], [[5, 6], [8]], "completion")
    assert fit_length([1, 2, 3], [[5, 6, 7], [8]], 4) == ([1, 3], [[5, 6], [8]], "both")
    assert fit_length([], [[5, 6, 7]], 2) == ([], [[5, 6]], "completion")
    assert fit_length([1, 2, 3], [[5, 6]], 2) == ([1], [[5]], "both")


# ---- rows ----


def test_a_pair_as_token_row(chat: ChatTemplate) -> None:
    row = {"prompt": "one two", "chosen": "three", "rejected": "four five", "label": 0.7}
    assert tokens.encode_preference(row, chat, 16) == TokenRow(
        prompt_ids=ids(chat, "one two"),
        completion_ids=[ids(chat, "three </s>"), ids(chat, "four five </s>")],
        loss_mask=[[True] * 2, [True] * 3],
        ranks=[0, 1],
        ratings=None,
        label=0.7,
        margin=None,
        opening="one two",
        cut="",
    )


def test_a_ranking_as_token_row(chat: ChatTemplate) -> None:
    row = {"prompt": "one", "completions": ["two", "three", "four"], "ratings": [1, 3, 1]}
    found = tokens.encode_preference(row, chat, 16)
    assert found.completion_ids == [ids(chat, f"{w} </s>") for w in ("two", "three", "four")]
    assert found.loss_mask == [[True, True]] * 3
    assert (found.ranks, found.ratings) == ([1, 0, 1], [1.0, 3.0, 1.0])


def test_a_cut_completion_loses_its_end(chat: ChatTemplate) -> None:
    row = {"prompt": "a b c d", "chosen": "one two three", "rejected": "four"}
    found = tokens.encode_preference(row, chat, 4)
    assert found.prompt_ids == ids(chat, "c d")
    assert found.completion_ids == [ids(chat, "one two"), ids(chat, "four </s>")]
    assert found.loss_mask == [[True, True]] * 2
    assert found.cut == "both"


@pytest.mark.parametrize(
    ("row", "max_length", "reason"),
    [
        (
            {"prompt": "a", "chosen": "one two three", "rejected": "one two four"},
            3,
            "identical once cut to max_length",
        ),
        # words this tokenizer does not know are one and the same to it
        (
            {"prompt": "a", "chosen": "zebra", "rejected": "yak"},
            9,
            "identical once tokenized",
        ),
        ({"prompt": "a", "completions": None, "ranks": None}, 9, "chosen is NoneType, not text"),
    ],
)
def test_bad_preferences(
    chat: ChatTemplate, row: dict[str, Any], max_length: int, reason: str
) -> None:
    with pytest.raises(BadRow) as raised:
        tokens.encode_preference(row, chat, max_length)
    assert str(raised.value) == reason


def test_demonstrations_as_token_rows(chat: ChatTemplate) -> None:
    (found,) = tokens.encode_demonstration({"prompt": "one", "completion": "two"}, chat, 9)
    assert found.prompt_ids == ids(chat, "one")
    assert found.completion_ids == [ids(chat, "two </s>")]
    assert (found.loss_mask, found.opening) == ([[True, True]], "one")

    (text,) = tokens.encode_demonstration({"text": "one two"}, chat, 9)
    assert (text.prompt_ids, text.completion_ids) == ([], [ids(chat, "one two </s>")])
    assert text.opening == "one two"


def test_a_conversation_starts_counting_after_its_first_prompt(chat: ChatTemplate) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four five")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (found,) = tokens.encode_demonstration(row, chat, 64)
    unknown = chat.tokenizer.unk_token_id
    human, speak = ids(chat, "Human:")[0], ids(chat, "Assistant:")[0]
    assert unknown not in (human, speak)
    assert found.prompt_ids == [human, *ids(chat, "one"), speak]
    assert found.completion_ids == [
        [*ids(chat, "two </s>"), human, *ids(chat, "three"), speak, *ids(chat, "four five </s>")]
    ]
    assert found.loss_mask == [[True] * 2 + [False] * 3 + [True] * 3]
    assert found.opening == "one"

    (short,) = tokens.encode_demonstration(row, chat, 8)  # 3 of prompt leave room for 5
    assert short.completion_ids == [found.completion_ids[0][:5]]
    assert short.loss_mask == [found.loss_mask[0][:5]]
    assert short.cut == "completion"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "one two three"},
        {"prompt": None, "text": "one two three"},
        {"messages": None, "prompt": "one two three", "text": "four"},
    ],
)
def test_prompts_as_token_rows(chat: ChatTemplate, row: dict[str, Any]) -> None:
    whole = tokens.encode_prompt(row, chat, 3)
    assert whole._replace(row="") == TokenRow(
        ids(chat, "one two three"), [], [], [], None, None, None, "one two three", ""
    )
    assert json.loads(whole.row) == row  # for rewards that want to know more
    short = tokens.encode_prompt(row, chat, 2)
    assert (short.prompt_ids, short.cut) == (ids(chat, "two three"), "prompt")


def test_a_prompt_from_a_preference_row(chat: ChatTemplate) -> None:
    found = tokens.encode_prompt({"chosen": "\n\nHuman: one\n\nAssistant: two"}, chat, 9)
    assert found.prompt_ids == ids(chat, "Human: one Assistant:")
    assert found.opening == "one"


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"prompt": " "}, "empty prompt"), ({"text": None}, "prompt is NoneType, not text")],
)
def test_bad_prompts(chat: ChatTemplate, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as raised:
        tokens.encode_prompt(row, chat, 9)
    assert str(raised.value) == reason


def test_the_report_reads_as_a_sentence() -> None:
    report = Report(1718, 1700, Counter({"prompt": 2, "both": 5}), Counter({"empty answer": 18}))
    assert str(report) == (
        "1,718 rows read, 1,700 kept; 5 cut to max_length (both); "
        "2 cut to max_length (prompt); 18 dropped (empty answer)"
    )
    assert str(Report(1, 1, Counter(), Counter())) == "1 rows read, 1 kept"
