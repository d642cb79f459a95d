"""Prompts and messages: the one that is read, and the one that is checked."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_rlhf.text.display import printable
from lightning_rlhf.text.messages import BadRow, as_messages, checked_prompt, prompt_of

TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?"
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "chosen": "x"}, "Why?"),
        ({"prompt": None, "messages": [*TURNS, {"role": "assistant", "content": "x"}]}, TURNS),
        ({"prompt": TRANSCRIPT}, TURNS),
        ({"chosen": TRANSCRIPT + "\n\nAssistant: So.", "rejected": "x"}, TURNS),
        ({"text": "Once"}, "Once"),
    ],
)
def test_a_row_holds_its_prompt_in_one_of_its_columns(row: dict[str, Any], prompt: Any) -> None:
    assert prompt_of(row) == prompt


def test_a_row_without_a_prompt_cannot_be_used() -> None:
    with pytest.raises(BadRow, match="prompt is NoneType, not text"):
        prompt_of({"completion": "x"})


def test_a_checked_prompt_is_not_converted() -> None:
    assert checked_prompt({"prompt": TRANSCRIPT}, "row 1") == TRANSCRIPT
    assert checked_prompt({"prompt": TURNS}, "row 1") is TURNS
    for prompt, sentence in (
        ("  ", "row 1 has no prompt: give it one"),
        (TURNS[:2], "row 1: the prompt ends with the role 'assistant'"),
        ([{"role": "user"}], "row 1: a message of the prompt lacks role or content"),
    ):
        with pytest.raises(ValueError, match=sentence):
            checked_prompt({"prompt": prompt}, "row 1")


def test_messages_are_copied() -> None:
    messages = as_messages(TURNS)
    assert messages == TURNS and messages[0] is not TURNS[0]
    assert as_messages("Hi") == TURNS[:1]


def test_control_characters_are_shown() -> None:
    assert printable("a\x1b[31m\x9b\r\u202eb\td\n") == "a\ufffd[31m\ufffd\ufffd\ufffdb\td\n"
