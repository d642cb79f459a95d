"""Text of messages: JSON, what Python prints, and texts that only look like it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.text.dialects import BadRow
from lightning_rlhf.text.written import LONGEST, read_written

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Is it \"so\" or 'so'?\n}\n {"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "weigh"}]},
]
printed = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "gpt"]), "content": st.text()}),
    min_size=1,
    max_size=4,
)


@given(printed)
def test_what_json_and_python_and_numpy_print_is_read(messages: list[dict[str, str]]) -> None:
    for text in (
        json.dumps(messages),
        json.dumps(messages, ensure_ascii=False, indent=2),
        repr(messages),
        "[" + "\n ".join(map(repr, messages)) + "]",
    ):
        assert read_written(text) == messages
    assert read_written(repr(messages[0])) == messages[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "[1, 2]",
        "{'a': 1}",
        '[{"name": "user", "age": 3}]',
        '[{"from": "A", "to": "B", "value": 3}]',  # the edges of a graph
        '[{"role": "engineer", "content": "of a company"}]',
        'Answer: [{"role": "user", "content": "Hi"}]',
        '[{"role": "user", "content": "Hi"}, 3]',
        "def f(role='user'): return {}",
    ],
)
def test_other_text_stays_text(text: str) -> None:
    assert read_written(text) is None


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(MESSAGES)[:-1],
        repr(MESSAGES)[:-10],
        json.dumps([{"role": "user", "content": "x" * LONGEST}]),
        "[{'role': 'user', 'content': array(['x'])}]",
        '[{"role": "user", "content": ' + "[" * 100_000,
    ],
)
def test_broken_messages_are_refused(text: str) -> None:
    with pytest.raises(BadRow, match="text that starts like messages is neither JSON nor"):
        read_written(text)
