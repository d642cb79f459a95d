"""Split answers from what they answer: texts, messages, or whole conversations that share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_rlhf.data.fields import read_text
from lightning_rlhf.text.messages import (
    SYSTEM,
    BadRow,
    Message,
    Prompt,
    as_messages,
    bare,
    finished,
    is_transcript,
    read_prompt,
    read_turns,
    says_something,
)

Answer = str | Message  # a message where it holds more than text: tool calls, reasoning
GOES_ON = {"assistant": ("user", "tool"), **dict.fromkeys(SYSTEM, ("user", "assistant"))}
NO_ANSWER = "the last turn is not an assistant's answer"


def read_sides(
    prompt: Any, sides: Sequence[Any], fields: str | Sequence[str]
) -> tuple[Prompt, list[Answer]]:
    """Read the prompt of a row and its answers, none of them empty.

    Sides of several turns are whole conversations, or continue the prompt. They differ only in
    their last turn. The cut is between turns, never inside a token.

    Args:
        prompt: of the row; None if it has none.
        sides: the answers, as the row has them.
        fields: their names, for reasons; or the one of the column that holds them all.

    Raises:
        BadRow: a side is not an answer, or the sides do not share what they answer.
    """
    if all(type(text) is str and text[:2] != "\n\n" for text in (prompt, *sides)):  # as usual
        return prompt, [filled(side) for side in sides]
    names = [fields] * len(sides) if isinstance(fields, str) else fields
    turns = [_side(side, name) for side, name in zip(sides, names, strict=True)]
    if prompt is not None and all(isinstance(t, str) or len(t) == 1 for t in turns):
        asked = read_prompt(prompt)
        _check_continued(prompt, turns)
        return asked, [filled(t) if isinstance(t, str) else answer_of(t[0]) for t in turns]
    if prompt is None and any(isinstance(t, str) for t in turns):
        raise BadRow("without a prompt, an answer must be a conversation or transcript")
    whole = [continued(prompt, _as_turn(t)) for t in turns]
    first, *others = (bare(turns[:-1]) for turns in whole)
    if not all(_alike(first, other) for other in others):
        raise BadRow("the two sides differ before their last turn")
    if not first:
        raise BadRow(NO_ANSWER)
    finished(first)
    return first, [answer_of(turns[-1]) for turns in whole]


def _side(value: Any, field: str) -> str | list[Message]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    turns = None if type(value) is str and value[:2] != "\n\n" else read_turns(value)
    return read_text(value, field) if turns is None else turns


def _as_turn(side: str | list[Message]) -> list[Message]:
    return [{"role": "assistant", "content": side}] if isinstance(side, str) else side


def _check_continued(prompt: Any, sides: list[str | list[Message]]) -> None:
    """Check that an assistant's turn before an answer that is a message says how they relate."""
    turns = read_turns(prompt)
    if turns is None or turns[-1]["role"] != "assistant" or turns[-1].get("prefix"):
        return
    if says_something(turns[-1]) and any(isinstance(side, list) for side in sides):
        raise BadRow(
            "the prompt ends with an assistant's turn and the answer is another: mark the first "
            "with prefix, if it is continued"
        )


def continued(prompt: Any, side: list[Message]) -> list[Message]:
    """Put a prompt in front of turns that do not begin with it.

    Text beside a whole conversation is not looked at: it repeats a part of it.

    Raises:
        BadRow: the turns neither begin with the prompt nor continue it.
    """
    if prompt is None or (prompt == "" and side[0]["role"] != "assistant"):
        return side
    if isinstance(prompt, str) and not is_transcript(prompt):
        return side if side[0]["role"] != "assistant" else [*as_messages(prompt), *side]
    before = read_turns(prompt)
    if before is None:
        raise BadRow(f"prompt is {type(prompt).__name__}, not text")
    if before[-1]["role"] == "assistant" and not says_something(before[-1]):
        before = before[:-1]
    if _begin(side, before) or (side[0]["role"] in SYSTEM and _begin(side[1:], before)):
        return side
    if before[1:] and before[0]["role"] in SYSTEM and _begin(side, before[1:]):
        return [before[0], *side]
    if before and side[0]["role"] in GOES_ON.get(before[-1]["role"], ("assistant",)):
        return [*before, *side]
    raise BadRow("the prompt is not the beginning of its answers")


def _begin(side: list[Message], before: list[Message]) -> bool:
    """Tell whether turns begin with others, and go on."""
    return len(side) > len(before) and _alike(side[: len(before)], before)


def _alike(turns: list[Message], others: list[Message]) -> bool:
    """Tell whether turns say the same, but for spaces around them and the name of the system."""
    if turns == others:
        return True
    bared = ([_plainly(m) for m in bare(t)] for t in (turns, others))
    return len(turns) == len(others) and next(bared) == next(bared)


def _plainly(message: Message) -> Message:
    role = "system" if message["role"] in SYSTEM else message["role"]
    return {**message, "role": role, "content": message["content"].strip()}


def answer_of(message: Message) -> Answer:
    """Reduce an answer to its text, if it holds nothing else.

    Raises:
        BadRow: it is not an answer to be trained on.
    """
    if message["role"] != "assistant":
        raise BadRow(NO_ANSWER)
    if message.get("train") is False:
        raise BadRow("the loss of an answer is switched off")
    finished([message])
    if not says_something(message):
        raise BadRow("empty answer")
    return message["content"] if message.keys() == {"role", "content"} else message


def filled(text: str) -> str:
    """Refuse an answer that says nothing."""
    if not text.strip():
        raise BadRow("empty answer")
    return text
