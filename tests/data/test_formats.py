"""Every shape of row that is read, and every sentence about one that is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.data import formats
from lightning_rlhf.data.formats import Conversation, Demonstration, Feedback, Pair, Ranking
from lightning_rlhf.text.messages import (
    BadRow,
    is_transcript,
    parse_transcript,
    prompt_of,
    read_messages,
    read_prompt,
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [SYSTEM, user("Hi"), assistant("Hello"), user("Why?")]
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?"
HEARD = TURNS[1:]  # what the transcript says

PAIRS = [
    ({"prompt": " 1+1=\n", "chosen": " 2", "rejected": "3 "}, (" 1+1=\n", " 2", "3 ")),
    ({"prompt": "", "chosen": "2", "rejected": "3"}, ("", "2", "3")),
    ({"prompt": TURNS, "chosen": "a", "rejected": "b"}, (TURNS, "a", "b")),
    (
        {"prompt": TURNS, "chosen": [assistant("a")], "rejected": [assistant("b")]},
        (TURNS, "a", "b"),
    ),
    (
        {"prompt": TRANSCRIPT + "\n\nAssistant:", "chosen": " a", "rejected": " b"},
        (HEARD, " a", " b"),
    ),
    (
        {"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]},
        (TURNS, "a", "b"),
    ),
    (
        {
            "chosen": TRANSCRIPT + "\n\nAssistant: a",
            "rejected": TRANSCRIPT + "\n\nAssistant:  b\n",
        },
        (HEARD, "a", "b"),
    ),
    (  # one side a transcript, the other messages
        {"chosen": TRANSCRIPT + "\n\nAssistant: a", "rejected": [*HEARD, assistant("b")]},
        (HEARD, "a", "b"),
    ),
    (  # a prompt column that only repeats the conversations' start
        {
            "prompt": "Why?",
            "chosen": [*TURNS, assistant("a")],
            "rejected": [*TURNS, assistant("b")],
        },
        (TURNS, "a", "b"),
    ),
    (  # other keys of a message are nobody's business
        {
            "prompt": [{**user("Hi"), "id": 7}],
            "chosen": [{**assistant("a"), "score": 1}],
            "rejected": "b",
        },
        ([user("Hi")], "a", "b"),
    ),
]


@pytest.mark.parametrize(("row", "found"), PAIRS)
def test_pairs(row: dict[str, Any], found: tuple[Any, str, str]) -> None:
    assert formats.read_pair(row) == Pair(*found, label=None, margin=None)
    # a table has every column, filled or not
    assert formats.read_pair({"prompt": None, "label": None, **row})[:3] == found


@pytest.mark.parametrize("label", [0, 0.0, 0.3, 1, True])
def test_soft_labels_and_margins_are_kept(label: float) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "label": label, "margin": -2}
    assert formats.read_pair(row) == Pair("p", "a", "b", float(label), -2.0)


ONE = {"prompt": "p", "chosen": "a", "rejected": "b"}
BAD_PAIRS = [
    ({**ONE, "rejected": "a"}, "identical pair"),
    ({**ONE, "rejected": ""}, "empty answer"),
    ({**ONE, "chosen": " \n\t"}, "empty answer"),
    ({**ONE, "chosen": None}, "chosen is NoneType, not text"),
    ({"prompt": "p", "chosen": "a"}, "rejected is NoneType, not text"),
    ({"prompt": "p"}, "chosen is NoneType, not text"),
    ({**ONE, "rejected": 3}, "rejected is int, not text"),
    (
        {**ONE, "chosen": [{"role": "assistant"}]},
        "a message must have a role and a content, both text",
    ),
    ({**ONE, "prompt": 3.5}, "prompt is float, not text"),
    ({**ONE, "prompt": []}, "no messages"),
    ({**ONE, "prompt": [assistant("a")]}, "no turn before the answer"),
    ({**ONE, "prompt": "\n\nAssistant: a"}, "no turn before the answer"),
    ({**ONE, "prompt": [{"role": "user"}]}, "a message must have a role and a content, both text"),
    ({**ONE, "prompt": ["Hi"]}, "a message must have a role and a content, both text"),
    ({**ONE, "label": 1.5}, "label 1.5 is not a probability"),
    ({**ONE, "label": -0.1}, "label -0.1 is not a probability"),
    ({**ONE, "label": math.nan}, "label nan is not a finite number"),
    ({**ONE, "label": "chosen"}, "label 'chosen' is not a finite number"),
    ({**ONE, "margin": "large"}, "margin 'large' is not a finite number"),
    ({**ONE, "margin": math.inf}, "margin inf is not a finite number"),
    (
        {"chosen": "a", "rejected": "b"},
        "without a prompt, an answer must be a conversation or transcript",
    ),
    (
        {"chosen": [*TURNS, assistant("a")], "rejected": "b"},
        "without a prompt, an answer must be a conversation or transcript",
    ),
    (
        {"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS[1:], assistant("b")]},
        "the two sides differ before their last turn",
    ),
    (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: a",
            "rejected": "\n\nHuman: Hi!\n\nAssistant: b",
        },
        "the two sides differ before their last turn",
    ),
    ({"chosen": TURNS, "rejected": TURNS}, "the last turn is not an assistant's answer"),
    (
        {"chosen": [assistant("a")], "rejected": [assistant("b")]},
        "the last turn is not an assistant's answer",
    ),
    (
        {"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("a")]},
        "identical pair",
    ),
    (
        {"chosen": TRANSCRIPT + "\n\nAssistant:", "rejected": TRANSCRIPT + "\n\nAssistant: b"},
        "empty answer",
    ),
]


@pytest.mark.parametrize(("row", "reason"), BAD_PAIRS)
def test_bad_pairs(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as raised:
        formats.read_pair(row)
    assert str(raised.value) == reason


turns = st.lists(
    st.text(alphabet="abc :.\n", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=6
).filter(lambda texts: len(texts) % 2 == 0)


@settings(max_examples=50, deadline=None)
@given(turns)
def test_a_transcript_is_its_turns(texts: list[str]) -> None:
    messages = [(assistant if i % 2 else user)(text) for i, text in enumerate(texts)]
    written = "".join(
        f"\n\n{'Human' if m['role'] == 'user' else 'Assistant'}: {m['content']}" for m in messages
    )
    assert is_transcript(written)
    assert parse_transcript(written) == messages
    # as a prompt, its last turn is the beginning of the answer
    begun = [*messages[:-1], {**messages[-1], "prefix": True}]
    assert read_prompt(written) == begun
    assert read_prompt(messages) == begun
    assert read_prompt(messages[:-1]) == messages[:-1]
    # as a conversation, it is the answer
    assert prompt_of({"text": written}) == prompt_of({"messages": messages}) == messages[:-1]


@pytest.mark.parametrize("text", ["", "Human: Hi", "Hi\n\nHuman: you", "\n\nUser: Hi"])
def test_what_is_no_transcript_is_text(text: str) -> None:
    assert not is_transcript(text)
    assert read_prompt(text) == text
    with pytest.raises(BadRow, match="a transcript must start with a Human or Assistant turn"):
        parse_transcript(text)


WHOLE = [*TURNS, assistant("So.")]
DEMONSTRATIONS = [
    ({"messages": WHOLE}, Conversation(WHOLE)),
    ({"prompt": "2+2=", "completion": " 4"}, Demonstration("2+2=", " 4")),
    ({"prompt": TURNS, "completion": [assistant("So.")]}, Demonstration(TURNS, "So.")),
    ({"prompt": TRANSCRIPT, "completion": "So."}, Demonstration(HEARD, "So.")),
    ({"text": " Once upon\n"}, Demonstration("", " Once upon\n")),
    ({"text": TRANSCRIPT + "\n\nAssistant: So."}, Conversation([*HEARD, assistant("So.")])),
    ({"prompt": "p", "chosen": "a", "rejected": "b"}, Demonstration("p", "a")),
    ({"prompt": "p", "chosen": "a", "rejected": "a"}, Demonstration("p", "a")),
    (
        {"chosen": WHOLE, "rejected": [*TURNS, assistant("No.")]},
        Demonstration(TURNS, "So."),
    ),
]


@pytest.mark.parametrize(("row", "found"), DEMONSTRATIONS)
def test_demonstrations(row: dict[str, Any], found: Demonstration | Conversation) -> None:
    for filled in (row, {"messages": None, "text": None, "completion": None, **row}):
        read = formats.read_demonstration(filled)
        assert read == found
        assert type(read) is type(found)


BAD_DEMONSTRATIONS = [
    ({"messages": []}, "no messages"),
    ({"messages": TURNS[:2]}, "no assistant turn"),
    ({"messages": [user("Hi"), assistant(" ")]}, "no assistant turn"),
    ({"text": "\n\nHuman: Hi"}, "no assistant turn"),
    ({"text": " "}, "empty answer"),
    ({"text": 5}, "text is int, not text"),
    ({"prompt": "p", "completion": "\n"}, "empty answer"),
    ({"prompt": "p", "completion": 4}, "completion is int, not text"),
    (
        {"prompt": None, "completion": "c"},
        "without a prompt, an answer must be a conversation or transcript",
    ),
    ({"completion": "c"}, "without a prompt, an answer must be a conversation or transcript"),
    ({"prompt": "p", "completion": None}, "chosen is NoneType, not text"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_DEMONSTRATIONS)
def test_bad_demonstrations(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as raised:
        formats.read_demonstration(row)
    assert str(raised.value) == reason


THREE = {"prompt": "p", "completions": ["a", "b", "c"]}
RANKINGS = [
    (THREE, [0, 1, 2], None),  # best to worst
    ({**THREE, "ranks": None, "ratings": None}, [0, 1, 2], None),
    ({**THREE, "ranks": [2, 0, 1]}, [2, 0, 1], None),
    ({**THREE, "ranks": [3, 1, 3]}, [1, 0, 1], None),  # a tie, counted from one
    ({**THREE, "ratings": [1, 5, 3]}, [2, 0, 1], [1.0, 5.0, 3.0]),
    ({**THREE, "ratings": [4.5, -1, 4.5]}, [0, 1, 0], [4.5, -1.0, 4.5]),
    ({**THREE, "ratings": [1, 2, 3], "ranks": [0, 1, 2]}, [2, 1, 0], [1.0, 2.0, 3.0]),
]


@pytest.mark.parametrize(("row", "ranks", "ratings"), RANKINGS)
def test_rankings(row: dict[str, Any], ranks: list[int], ratings: list[float] | None) -> None:
    assert formats.read_ranking(row) == Ranking("p", ["a", "b", "c"], ranks, ratings)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6).filter(lambda r: len(set(r)) > 1))
def test_ranks_order_as_ratings_do(ratings: list[int]) -> None:
    row = {"prompt": "p", "completions": ["x"] * len(ratings), "ratings": ratings}
    ranks = formats.read_ranking(row).ranks
    for i, better in enumerate(ratings):
        for j, worse in enumerate(ratings):
            assert (ranks[i] < ranks[j]) == (better > worse)
    assert min(ranks) == 0


BAD_RANKINGS = [
    ({**THREE, "ranks": [0, 1]}, "3 completions but 2 ranks"),
    ({**THREE, "ranks": []}, "3 completions but 0 ranks"),
    ({**THREE, "ratings": [1.0, 2.0, 3.0, 4.0]}, "3 completions but 4 ranks"),
    ({**THREE, "ranks": [1, 1, 1]}, "no completion is better than another"),
    ({**THREE, "ratings": [2, 2, 2]}, "no completion is better than another"),
    ({**THREE, "completions": ["a"]}, "no completion is better than another"),
    ({**THREE, "ratings": [1, None, 3]}, "ratings None is not a finite number"),
    ({**THREE, "ratings": [1, math.nan, 3]}, "ratings nan is not a finite number"),
    ({**THREE, "ratings": ["5", "N/A", "3"]}, "ratings '5' is not a finite number"),
    ({**THREE, "ranks": "012"}, "ranks is str, not a list"),
    ({**THREE, "completions": "abc"}, "completions is str, not a list"),
    ({**THREE, "completions": ["a", "", "c"]}, "empty answer"),
    ({**THREE, "completions": ["a", 2, "c"]}, "completions is int, not text"),
    (
        {"completions": ["a", "b"]},
        "without a prompt, an answer must be a conversation or transcript",
    ),
]


@pytest.mark.parametrize(("row", "reason"), BAD_RANKINGS)
def test_bad_rankings(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as raised:
        formats.read_ranking(row)
    assert str(raised.value) == reason


def test_a_split_goes_by_the_first_question() -> None:
    assert formats.first_user_turn(TURNS) == "Hi"
    assert formats.first_user_turn("Once") == "Once"
    assert formats.first_user_turn([SYSTEM]) == "Be brief."


# ---- what the answers say of themselves ----

SAID = [
    ({"completions": [["a"], ["b", "c"]]}, [0, 1, 1], None),  # groups that tie
    ({"completions": [["a", "b"], ["c"]]}, [0, 0, 1], None),
    ({"completions": ["a", ["b", "c"]]}, [0, 1, 1], None),
    ({"completions": [[assistant("a")], [assistant("b")], [assistant("c")]]}, [0, 1, 2], None),
    ({**THREE, "order": "B>A=C"}, [1, 0, 1], None),
    ({**THREE, "order": [[1], [0, 2]]}, [1, 0, 1], None),
    (
        {
            "completions": [
                {"response": t, "overall_score": s} for t, s in zip("abc", [2, 9, 2], strict=True)
            ]
        },
        [1, 0, 1],
        [2.0, 9.0, 2.0],
    ),
    (
        {
            "completions": [
                {"text": t, "rating": s, "rank": None}
                for t, s in zip("abc", [3, 2, 1], strict=True)
            ]
        },
        [0, 1, 2],
        [3.0, 2.0, 1.0],
    ),
    (
        {"completions": [{"answer": t, "rank": r} for t, r in zip("abc", [2, 1, 2], strict=True)]},
        [1, 0, 1],
        None,
    ),
]


@pytest.mark.parametrize(("row", "ranks", "ratings"), SAID)
def test_answers_that_rank_themselves(
    row: dict[str, Any], ranks: list[int], ratings: list[float] | None
) -> None:
    found = formats.read_ranking({"prompt": "p", **row})
    assert found == Ranking("p", ["a", "b", "c"], ranks, ratings)


@pytest.mark.parametrize(
    ("completions", "reason"),
    [
        (
            [{"response": "a"}],
            "a completion has none of overall_score, score, rating, reward, rank",
        ),
        ([{"response": "a", "rank": 1}, {"response": "b", "rank": None}], "a completion has none"),
        (
            [{"response": "a", "score": 1}, {"response": "b", "score": None}],
            "score None is not a finite num",
        ),
        (
            [{"said": "a", "score": 1}, {"said": "b", "score": 2}],
            "completions is NoneType, not text",
        ),
        ([[], ["a"]], "no completion is better than another"),
        ([["a", " "], ["b"]], "empty answer"),
    ],
)
def test_answers_that_do_not(completions: list[Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        formats.read_ranking({"prompt": "p", "completions": completions})


def test_a_thumb_about_a_conversation_is_about_its_last_turn() -> None:
    row = {"messages": [*TURNS, assistant("So.")], "label": "thumbs_down", "completion": None}
    assert formats.read_feedback(row) == Feedback(TURNS, "So.", 0.0)
    for messages in (TURNS, [assistant("So.")]):
        with pytest.raises(BadRow, match="the last turn is not an assistant's answer"):
            formats.read_feedback({"messages": messages, "label": True})


def test_messages_in_either_spelling_and_what_tools_need() -> None:
    call = {"id": "7", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}
    spoken = [
        {"from": "human", "value": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "id": 3},
        {"role": "tool", "content": "2", "tool_call_id": "7", "name": "add", "tool_calls": None},
        {"from": "gpt", "value": "2"},
    ]
    assert read_messages(spoken) == [
        user("1+1?"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "7", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "7", "name": "add"},
        assistant("2"),
    ]
    with pytest.raises(BadRow, match="the role 'nobody' is not known"):
        read_messages([{"from": "nobody", "value": "x"}])
    with pytest.raises(BadRow, match="a message must have a role and a content"):
        read_messages([{"role": "assistant", "content": None, "tool_calls": []}])
