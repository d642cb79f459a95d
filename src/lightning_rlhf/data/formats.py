"""Rows as people store them, read into one shape each: conversation, pair, ranking, prompt.

A *prompt* is a string kept as it is, or messages ``{"role", "content"}`` that end before the
answer.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

Message = dict[str, str]
Prompt = str | list[Message]
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant): ?")
TRANSCRIPT_ROLE = {"Human": "user", "Assistant": "assistant"}


class BadRow(ValueError):
    """A row that cannot be used; its text is the reason, counted in the report."""


class Demonstration(NamedTuple):
    """A conversation whose assistant turns are to be imitated."""

    prompt: Prompt  # "" where the whole text counts
    reply: str


class Conversation(NamedTuple):
    """Many turns, of which every assistant turn counts."""

    messages: list[Message]


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: Prompt
    chosen: str
    rejected: str
    label: float | None  # probability that chosen is better
    margin: float | None


class Feedback(NamedTuple):
    """One answer and what was thought of it."""

    prompt: Prompt
    completion: str
    label: float  # probability that it is good


class Ranking(NamedTuple):
    """K answers to one prompt."""

    prompt: Prompt
    completions: list[str]
    ranks: list[int]  # lower is better, equal is a tie
    ratings: list[float] | None


def parse_transcript(text: str) -> list[Message]:
    """An Anthropic HH transcript ("\\n\\nHuman: ... \\n\\nAssistant: ...") as messages."""
    pieces = TRANSCRIPT_TURN.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        raise BadRow("a transcript must start with a Human or Assistant turn")
    return [
        {"role": TRANSCRIPT_ROLE[who], "content": content.strip()}
        for who, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def is_transcript(value: Any) -> bool:
    """Whether a string is an HH transcript."""
    return isinstance(value, str) and bool(TRANSCRIPT_TURN.match(value))


def read_prompt(value: Any) -> Prompt:
    """A prompt as a string, as messages, or as a transcript that ends before or with an answer."""
    if is_transcript(value):
        value = parse_transcript(value)
    if isinstance(value, list):
        messages = read_messages(value)
        if messages[-1]["role"] == "assistant":  # an empty last turn, or an answer not asked for
            messages = messages[:-1]
        if not messages:
            raise BadRow("no turn before the answer")
        return messages
    return read_text(value, "prompt")


def read_text(value: Any, field: str) -> str:
    """A string, or a list that holds one assistant message."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise BadRow(f"{field} is {type(value).__name__}, not text")
    return value


def read_messages(value: list[Any]) -> list[Message]:
    """Messages with their role and content, and nothing else."""
    if not value:
        raise BadRow("no messages")
    for message in value:
        if not (
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
        ):
            raise BadRow("a message must have a role and a content, both text")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def read_demonstration(row: dict[str, Any]) -> Demonstration | Conversation:
    """``messages``, ``prompt`` + ``completion``, ``text``, or the better side of a pair."""
    if row.get("messages") is not None:
        return _conversation(read_messages(row["messages"]))
    if row.get("completion") is not None:
        return Demonstration(
            read_prompt(row.get("prompt")), _filled(read_text(row["completion"], "completion"))
        )
    if row.get("text") is not None:
        if is_transcript(row["text"]):
            return _conversation(parse_transcript(row["text"]))
        return Demonstration("", _filled(read_text(row["text"], "text")))
    pair = read_pair(row, allow_equal=True)
    return Demonstration(pair.prompt, pair.chosen)


def _conversation(messages: list[Message]) -> Conversation:
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise BadRow("no assistant turn")
    return Conversation(messages)


def read_pair(row: dict[str, Any], allow_equal: bool = False) -> Pair:
    """``prompt`` + ``chosen`` + ``rejected``, or two whole conversations that share their prompt.

    A prompt beside two whole conversations only says again what they start with.
    """
    sides = row.get("chosen"), row.get("rejected")
    prompt: Prompt
    if row.get("prompt") is None or any(isinstance(s, list) and len(s) > 1 for s in sides):
        prompt, chosen, rejected = _split_conversations(*sides)
    else:
        prompt = read_prompt(row["prompt"])
        chosen, rejected = read_text(sides[0], "chosen"), read_text(sides[1], "rejected")
    if chosen == rejected and not allow_equal:
        raise BadRow("identical pair")
    label, margin = (
        None if row.get(field) is None else read_number(row[field], field)
        for field in ("label", "margin")
    )
    if label is not None and not 0 <= label <= 1:
        raise BadRow(f"label {label:g} is no probability")
    return Pair(prompt, _filled(chosen), _filled(rejected), label, margin)


def _split_conversations(chosen: Any, rejected: Any) -> tuple[list[Message], str, str]:
    """Two conversations that differ in their last turn only.

    The cut is between turns, never inside a token.
    """
    sides = [
        parse_transcript(side) if is_transcript(side) else read_messages(side)
        for side in (chosen, rejected)
        if is_transcript(side) or isinstance(side, list)
    ]
    if len(sides) != 2:
        raise BadRow("without a prompt column, both sides must be messages or transcripts")
    if sides[0][:-1] != sides[1][:-1]:
        raise BadRow("the two sides differ before their last turn")
    if not sides[0][:-1] or {sides[0][-1]["role"], sides[1][-1]["role"]} != {"assistant"}:
        raise BadRow("the last turn is not an assistant's answer")
    return sides[0][:-1], sides[0][-1]["content"], sides[1][-1]["content"]


def read_feedback(row: dict[str, Any]) -> Feedback:
    """``prompt`` + ``completion`` + ``label``: true or 1 a thumb up, false or 0 a thumb down."""
    label = read_number(row.get("label"), "label")
    if not 0 <= label <= 1:
        raise BadRow(f"label {label:g} is no probability")
    completion = _filled(read_text(row["completion"], "completion"))
    return Feedback(read_prompt(row.get("prompt")), completion, label)


def read_ranking(row: dict[str, Any]) -> Ranking:
    """``prompt`` + ``completions`` with ``ranks`` (lower is better) or ``ratings`` (higher is).

    With neither, the completions stand from best to worst. Ranks come back as 0, 1, 2...
    """
    if not isinstance(row["completions"], list):
        raise BadRow(f"completions is {type(row['completions']).__name__}, not a list")
    completions = [_filled(read_text(c, "completions")) for c in row["completions"]]
    ratings = None
    if row.get("ratings") is not None:
        ratings = read_numbers(row["ratings"], "ratings")
        ranks = _places([-rating for rating in ratings])
    elif row.get("ranks") is not None:
        ranks = _places(read_numbers(row["ranks"], "ranks"))
    else:
        ranks = list(range(len(completions)))
    if len(ranks) != len(completions):
        raise BadRow(f"{len(completions)} completions but {len(ranks)} ranks")
    if len(set(ranks)) < 2:
        raise BadRow("no completion is better than another")
    return Ranking(read_prompt(row.get("prompt")), completions, ranks, ratings)


def read_number(value: Any, field: str) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow(f"{field} {value!r} is no number")
    return float(value)


def read_numbers(values: Any, field: str) -> list[float]:
    """A list of finite numbers."""
    if not isinstance(values, list):
        raise BadRow(f"{field} is {type(values).__name__}, not a list")
    return [read_number(value, field) for value in values]


def _places(values: list[float]) -> list[int]:
    """The place of each value from the lowest up; equal values share one."""
    order = sorted(set(values))
    return [order.index(value) for value in values]


def _filled(text: str) -> str:
    if not text.strip():
        raise BadRow("empty answer")
    return text


def first_user_turn(prompt: Prompt) -> str:
    """What a split goes by: rows that grew from one opening stay on one side of it."""
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in prompt if m["role"] == "user"), prompt[0]["content"])
