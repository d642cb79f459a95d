"""Chat messages and prompts as people store them, read into one shape.

A *prompt* is a string kept as it is, or messages that end before the answer. Its last message may
be the beginning of the answer: an assistant's with ``prefix``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lightning_rlhf.text.dialects import (
    BadRow,
    Message,
    is_message,
    is_table,
    read_message,
    without_none,
)

Prompt = str | list[Message]
Tools = list[dict[str, Any]] | None  # their schemas, as a chat template wants them
# names of the roles in Anthropic-HH transcripts, which the template "plain" writes and we read
SPEAKERS = {
    "user": "Human", "assistant": "Assistant", "system": "System", "developer": "System",
    "tool": "Tool",
}  # fmt: skip
SYSTEM = ("system", "developer")
PROMPT_COLUMNS = ("prompt", "messages", "text", "chosen")  # the first that a row has
TRANSCRIPT_START = re.compile(r"(?:\n\nSystem: ?(.*?))?(?=\n\n(?:Human|Assistant):)", re.DOTALL)
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant): ?")
TRANSCRIPT_ROLES = {SPEAKERS[role]: role for role in ("user", "assistant")}


def as_messages(prompt: Prompt) -> list[Message]:
    """Turn a prompt into messages; a string is a user turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def begun_turn(prompt: Prompt) -> Message | None:
    """Return the beginning of the answer that a prompt ends with; None if it has none."""
    if isinstance(prompt, str) or not prompt or not prompt[-1].get("prefix"):
        return None
    return prompt[-1]


def answered(prompt: Prompt, answer: str | Message) -> list[Message]:
    """Put an answer behind a prompt; it continues the beginning that the prompt may have of it."""
    reply = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    begun = begun_turn(prompt)
    if begun is None:
        return [*as_messages(prompt), reply]
    whole = {**reply, "content": begun["content"] + (reply["content"] or "")}
    return [*as_messages(prompt)[:-1], whole]


def prompt_of(row: dict[str, Any]) -> Prompt:
    """Read the prompt of a row, from whichever column holds it.

    A conversation in another column than ``prompt`` is a prompt without its last answer.

    Raises:
        BadRow: no column holds one.
    """
    column = next((k for k in PROMPT_COLUMNS if row.get(k) is not None), "prompt")
    value = row.get(column)
    turns = None if column == "prompt" else read_turns(value)
    if not turns or turns[-1]["role"] != "assistant" or turns[-1].get("prefix"):
        return read_prompt(value)
    return _asked(bare(turns[:-1]))


def checked_prompt(row: dict[str, Any], where: str) -> Prompt:
    """Return the prompt of a row that was read before: nothing in it is converted.

    Raises:
        ValueError: there is none, or it is not a conversation that ends with a user's turn.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(f"{where} has no prompt: give it one as text or as messages")
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"{where}: a message of the prompt lacks role or content as text")
    if prompt[-1].get("role") in (None, "assistant", *SYSTEM):
        raise ValueError(
            f"{where}: the prompt ends with the role {prompt[-1].get('role')!r}; it must end with "
            "a user's turn"
        )
    return prompt


def read_prompt(value: Any) -> Prompt:
    """Read a prompt: a string, messages, or a transcript, which end before the answer or in it.

    An assistant's turn at the end is the beginning of the answer; an empty one is left out.
    """
    turns = read_turns(value)
    if turns is not None:
        return as_prompt(turns)
    if not isinstance(value, str):
        raise BadRow(f"prompt is {type(value).__name__}, not text")
    return value


def as_prompt(turns: list[Message]) -> Prompt:
    """Make a prompt of messages: an assistant's turn at the end is the beginning of the answer."""
    *before, last = bare(turns)
    if last["role"] != "assistant":
        return _asked([*before, last])
    if not says_something(last):
        return _asked(before)
    if last.keys() - {"role", "content", "prefix"}:
        raise BadRow("the prompt ends with an assistant's turn that is more than text")
    return [*_asked(before), {**last, "prefix": True}]


def _asked(turns: list[Message]) -> list[Message]:
    if not turns:
        raise BadRow("no turn before the answer")
    finished(turns)
    return turns


def finished(turns: list[Message]) -> None:
    """Check that no message is the beginning of one.

    Raises:
        BadRow: one is.
    """
    if any("prefix" in turn for turn in turns):
        raise BadRow("a turn is marked as a prefix, and what continues it is not there")


def says_something(message: Message) -> bool:
    """Tell whether a message has text or calls a tool."""
    return bool(message["content"].strip() or message.get("tool_calls"))


def bare(turns: list[Message]) -> list[Message]:
    """Drop the switches of the loss, which are not part of what a model reads."""
    return [{k: v for k, v in m.items() if k != "train"} if "train" in m else m for m in turns]


def read_turns(value: Any) -> list[Message] | None:
    """Read the messages of a list, of a table of them, or of a transcript; None for all else."""
    if isinstance(value, list) or is_message(value) or is_table(value):
        return read_messages(value)
    return parse_transcript(value) if is_transcript(value) else None


def is_transcript(value: Any) -> bool:
    """Tell whether a value is an Anthropic-HH transcript."""
    return isinstance(value, str) and value[:2] == "\n\n" and bool(TRANSCRIPT_START.match(value))


def parse_transcript(text: str) -> list[Message]:
    """Read an HH transcript ("\\n\\nHuman: ... \\n\\nAssistant: ...") as messages."""
    start = TRANSCRIPT_START.match(text)
    if start is None or text[:2] != "\n\n":
        raise BadRow("a transcript must start with a Human or Assistant turn")
    pieces = TRANSCRIPT_TURN.split(text[start.end() :])
    system = [] if start[1] is None else [{"role": "system", "content": start[1].strip()}]
    return system + [
        {"role": TRANSCRIPT_ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def read_messages(value: Any) -> list[Message]:
    """Read messages: a list of them, one alone, a list for each of their keys, a transcript.

    What is kept of each, ``read_message`` says.
    """
    if isinstance(value, dict):
        value = _transposed(value) if is_table(value) else [value]
    if is_transcript(value):
        return parse_transcript(value)
    if not value:
        raise BadRow("no messages")
    if not isinstance(value, list | tuple):
        raise BadRow(f"messages is {type(value).__name__}, not a list of them")
    return [read_message(message) for message in value]


def _transposed(lists: dict[str, Any]) -> list[Message]:
    """Make messages of lists of their values, as tables may store them."""
    filled = {key: values for key, values in lists.items() if isinstance(values, list)}
    if len(set(map(len, filled.values()))) > 1:
        raise BadRow("the lists of the roles and texts of messages have different lengths")
    return [dict(zip(filled, row, strict=True)) for row in zip(*filled.values(), strict=True)]


def read_tools(value: Any) -> Tools:
    """Read the schemas of tools, a list or its JSON; None where there are none."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except json.JSONDecodeError as reason:
            raise BadRow(f"tools is not JSON: {reason.msg}") from reason
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadRow("tools is not a list of schemas")
    return [without_none(tool) for tool in value]
