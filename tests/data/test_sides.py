"""Answers apart from what they answer, whichever of the two a row repeats."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.data.formats import (
    Conversation,
    read_demonstration,
    read_feedback,
    read_pair,
    read_ranking,
)
from lightning_rlhf.data.layouts import FORMATS
from lightning_rlhf.text.messages import BadRow, Message


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, **keys: Any) -> Message:
    return {"role": "assistant", "content": text, **keys}


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "weigh", "arguments": {"grams": 7}}}
words = st.sampled_from(["one", "two", "three", " four ", "five\n"])


@settings(max_examples=150, deadline=None)
@given(said=st.lists(words, min_size=3, max_size=7).filter(lambda t: len(t) % 2 == 1),
       cut=st.integers(1, 7), system=st.booleans(), repeats=st.booleans(),
       told=st.booleans())  # fmt: skip
def test_a_prompt_is_continued_or_repeated(
    said: list[str], cut: int, system: bool, repeats: bool, told: bool
) -> None:
    """Wherever a conversation is cut into a prompt and what follows, the pair is the same."""
    # a continuation that says what its prompt says cannot be told from a repetition
    turns = [(user, assistant)[i % 2](f"{i}{text}") for i, text in enumerate(said)]
    turns = [SYSTEM, *turns] if system else turns
    cut = min(cut, len(turns))
    if turns[cut - 1]["role"] == "system" and not repeats:
        cut += 1
    prompt = turns[:cut]
    rest = turns if repeats else turns[cut:]
    if system and repeats and not told:
        rest = turns[1:]  # only the prompt has the system turn
    good, bad = ([*rest, assistant(text)] for text in ("good", "bad"))
    if prompt[-1]["role"] == "assistant" and len(good) == 1:
        return  # a begun answer: see test_message_tokens
    pair = read_pair({"prompt": prompt, "chosen": good, "rejected": bad})
    assert (pair.prompt, pair.chosen, pair.rejected) == (turns, "good", "bad")
    ranking = read_ranking({"prompt": prompt, "completions": [good, bad]})
    assert (ranking.prompt, ranking.completions) == (turns, ["good", "bad"])
    feedback = read_feedback({"prompt": prompt, "completion": good, "label": 1})
    assert (feedback.prompt, feedback.completion) == (turns, "good")
    shown = read_demonstration({"prompt": prompt, "completion": good})
    if isinstance(shown, Conversation):
        assert [{**m, "train": True} for m in shown.messages] == [
            {**m, "train": True} for m in (*turns, assistant("good"))
        ]
        given_turns = [m for m in turns[:cut] if m["role"] == "assistant"]
        off = [m for m in shown.messages if m.get("train") is False]
        assert len(off) == len(given_turns), "turns of the prompt are not imitated"
    else:
        assert (shown.prompt, shown.reply) == (turns, "good")


def test_answers_that_are_more_than_text() -> None:
    call, told = assistant("", tool_calls=[CALL]), assistant("Well.", tool_calls=[CALL])
    thought = assistant("Seven.", reasoning_content="hm")
    sides = [call, told, thought]
    for one in sides:
        for other in sides:
            row = {"prompt": "How heavy?", "chosen": [one], "rejected": [other]}
            if one is other:
                with pytest.raises(BadRow, match="identical pair"):
                    read_pair(row)
                continue
            pair = read_pair(row)
            assert (pair.chosen, pair.rejected) == (one, other)
    assert read_ranking({"prompt": "p", "completions": sides}).completions == sides
    rated = [{**side, "rating": i} for i, side in enumerate(sides)]
    ranking = read_ranking({"prompt": "p", "completions": rated})
    assert (ranking.completions, ranking.ratings) == (sides, [0.0, 1.0, 2.0])
    for side in sides:
        assert read_feedback({"prompt": "p", "completion": side, "label": 1}).completion == side
        whole = {"messages": [user("p"), side], "label": 1}
        assert read_feedback(whole).completion == side


TRANSCRIPT = "\n\nHuman: one\n\nAssistant:"


@pytest.mark.parametrize("prompt", [None, TRANSCRIPT, "\n\nHuman: one", [user("one")], "one"])
def test_transcripts_on_both_sides(prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": f"{TRANSCRIPT} two", "rejected": f"{TRANSCRIPT} three"}
    pair = read_pair(row)
    assert (pair.prompt, pair.chosen, pair.rejected) == ([user("one")], "two", "three")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": [user("x")], "chosen": [user("one"), assistant("two")]},
            "the prompt is not the beginning of its answers",
        ),
        ({"prompt": [user("one")], "chosen": [user("two")]}, "the last turn is not an assistant's"),
        (
            {"prompt": [user("one")], "chosen": [assistant("a"), user("b"), assistant("two")]},
            "the two sides differ before their last turn",
        ),
        ({"prompt": 3, "chosen": [user("one"), assistant("two")]}, "prompt is int, not text"),
        ({"prompt": "p", "chosen": {"text": "two"}}, "chosen is dict, not text"),
        ({"prompt": "p", "chosen": [assistant(" ")]}, "empty answer"),
    ],
)
def test_sides_that_do_not_fit_are_dropped(row: dict[str, Any], reason: str) -> None:
    rejected = [*row["chosen"][:-1], assistant("no")] if isinstance(row["chosen"], list) else "no"
    if "differ" in reason:
        rejected = "no"
    with pytest.raises(BadRow, match=reason):
        read_pair({**row, "rejected": rejected})


def test_sides_of_sharegpt_pairs_are_carried_whole() -> None:
    (format,) = (f for f in FORMATS if f.name == "sharegpt-pairs")
    turns = [{"from": "human", "value": "How heavy?"}]
    call = {"from": "function_call", "value": '{"name": "weigh", "arguments": {"grams": 7}}'}
    no = {"from": "gpt", "value": "No."}
    for good in (call, [call]):
        pair = read_pair(format.read({"conversations": turns, "chosen": good, "rejected": [no]}))
        assert pair.prompt == [user("How heavy?")]
        assert (pair.chosen, pair.rejected) == (assistant("", tool_calls=[CALL]), "No.")
    longer = [no, {"from": "human", "value": "Why?"}]
    row = {"conversations": turns, "chosen": [*longer, call], "rejected": [*longer, no]}
    pair = read_pair(format.read(row))
    assert pair.prompt == [user("How heavy?"), assistant("No."), user("Why?")]
    made = format.read({"conversations": turns, "chosen": call, "rejected": {**no, "weight": 0}})
    with pytest.raises(BadRow, match="the loss of an answer is switched off"):
        read_pair(made)
    pair = read_pair({"prompt": turns, "chosen": ["Yes."], "rejected": "No."})
    assert (pair.chosen, pair.rejected) == ("Yes.", "No.")
