"""One message in the spelling of each tool, and the sentences on what cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.text.dialects import (
    CALLERS,
    MASKS,
    ROLE_KEYS,
    ROLES,
    TEXT_KEYS,
    WEIGHTS,
    BadRow,
    read_message,
)
from lightning_rlhf.text.messages import read_messages

CALL = {"type": "function", "function": {"name": "weigh", "arguments": {"grams": 7}}}
SAID = {"role": "assistant", "content": "Seven."}


@given(
    key=st.sampled_from(ROLE_KEYS),
    text=st.sampled_from(TEXT_KEYS),
    name=st.sampled_from([name for name in ROLES if name not in CALLERS]),
    manner=st.sampled_from([str, str.upper, str.title, lambda name: f" {name} "]),
    content=st.text(),
)
def test_roles_and_texts_under_any_key(
    key: str, text: str, name: str, manner: Any, content: str
) -> None:
    read = read_message({text: content, key: manner(name)})
    assert read == {"role": ROLES[name], "content": content}
    assert read_message(read) == read


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from([*ROLE_KEYS[:2], *TEXT_KEYS[:3], *WEIGHTS[:2], *MASKS, "type",
                                 "thinking", "tool_calls", "function_call", "name", "prefix"]),
                st.one_of(inner, st.sampled_from([*ROLES, "text", "tool_use"])),
                max_size=5,
            ),
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_whatever_a_message_is_it_is_read_or_refused_in_a_sentence(raw: Any) -> None:
    try:
        read = read_messages(raw)
    except BadRow:
        return
    assert read_messages(read) == read, "read again, messages stay as they are"
    assert all(isinstance(message["content"], str) for message in read)


@pytest.mark.parametrize(
    "raw",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": "", "function_call": CALL["function"]},
        {"from": "gpt", "value": "", "function_call": json.dumps(CALL["function"])},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "function_call", "value": json.dumps([CALL["function"]])},
        {"from": "tool_call", "value": '{"name": "weigh", "parameters": {"grams": 7}}'},
    ],
)
def test_calls_in_every_form(raw: dict[str, Any]) -> None:
    assert read_message(raw) == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_caller_that_writes_no_call_says_its_text() -> None:
    for text in ("weigh(7)", '{"grams": 7}', "[1]", '"weigh"'):
        read = read_message({"from": "function_call", "value": text})
        assert read == {"role": "assistant", "content": text}


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text", None])
@pytest.mark.parametrize("key", ["text", "content"])
def test_parts_are_joined(kind: str | None, key: str) -> None:
    parts = ["Se", {"type": kind, key: "ven", "image_url": None}, {"type": kind, key: "."}]
    assert read_message({"role": "assistant", "content": parts}) == SAID
    assert read_message({"author": {"role": "model"}, "content": {"parts": ["Seven."]}}) == SAID


def test_reasoning_is_kept() -> None:
    wanted = {**SAID, "reasoning_content": "3 + 4"}
    for key in ("reasoning_content", "reasoning", "thinking"):
        assert read_message({**SAID, key: "3 + 4"}) == wanted
        part = {"type": "thinking", "thinking": [{"type": "text", "text": "3 + 4"}]}
        parts = [part, {"type": "text", "text": "Seven."}]
        assert read_message({"role": "assistant", "content": parts, key: None}) == wanted


@pytest.mark.parametrize("key", [*WEIGHTS, "masked"])
@pytest.mark.parametrize("manner", [bool, int, float, str])
@pytest.mark.parametrize("on", [True, False])
def test_switches_of_the_loss(key: str, manner: Any, on: bool) -> None:
    value = manner(int(on) if manner is str else on)
    off = on if key in MASKS else not on
    wanted = {**SAID, "train": False} if off else SAID
    assert read_message({**SAID, key: value}) == wanted
    assert read_message({"role": "user", "content": "?", key: value}) == {
        "role": "user",
        "content": "?",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"role": "narrator"}, "the role 'narrator' is not known"),
        ({"role": 3}, "a message must have a role and a content, both text"),
        ({"content": 3}, "a message must have a role and a content, both text"),
        ({"content": [{"type": "image_url", "image_url": "x"}]}, "part of type 'image_url', and"),
        ({"content": [{"type": "input_audio"}]}, "part of type 'input_audio', and only text"),
        ({"content": [{"text": "a", "image": "x"}]}, "a part with image, and only text is read"),
        ({"content": [{"type": "text"}]}, "a text part of a message has no text"),
        ({"content": [3]}, "a message has a part that is int, not text"),
        ({"images": ["x.png"]}, "a message has images, and only its text is read"),
        ({"value": "Eight."}, "a message has both content and value"),
        ({"reasoning": "a", "thinking": "b"}, "a message has two texts of reasoning"),
        ({"role": "user", "thinking": "b"}, "a user turn has reasoning"),
        ({"weight": 0.5}, "a message has weight 0.5, and only 0 and 1 are read"),
        ({"loss": [1]}, r"a message has loss \[1\], and only 0 and 1 are read"),
        ({"weight": 1, "train": False}, "switches of its loss that say different things"),
        ({"mask": 1}, "a message has mask 1, which can mean both: use weight 0 or 1"),
        ({"train_detail": [{"begin_offset": 0}]}, "a message has train_detail, and only its text"),
        ({"prefix": 2}, "a message has prefix 2, and only 0 and 1 are read"),
        ({"tool_calls": 3}, "tool_calls is not a list of calls"),
        ({"tool_calls": "{"}, "tool_calls is text but not JSON"),
        ({"function_call": "auto"}, "function_call is text but not JSON"),
        ({"function_call": {"arguments": {}}}, "function_call is not a name with arguments"),
        (
            {"function_call": {"name": "a"}, "tool_calls": [CALL]},
            "a message has both tool_calls and function_call",
        ),
    ],
)
def test_what_is_not_read_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_message({**SAID, **change})


def test_lists_of_roles_and_texts() -> None:
    table = {"role": ["user", "gpt"], "content": ["Hi", "Seven."], "weight": [None, 0], "id": 3}
    assert read_messages(table) == [{"role": "user", "content": "Hi"}, {**SAID, "train": False}]
    with pytest.raises(BadRow, match="have different lengths"):
        read_messages({"role": ["user", "gpt"], "content": ["Hi"]})
