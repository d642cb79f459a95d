"""Chat messages and prompts as people store them, read into one shape.

A *prompt* is a string kept as it is, or messages ``{"role", "content"}`` that end before the
answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from lightning_rlhf.text.display import printable, shortened

Message = dict[str, Any]  # role and content, and what tools need
Prompt = str | list[Message]
Tools = list[dict[str, Any]] | None  # their schemas, as a chat template wants them
# names of the roles in Anthropic-HH transcripts, which the template "plain" writes and we read
SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "bing": "assistant", "chatgpt": "assistant", "system": "system", "function_call": "assistant",
    "observation": "tool", "function": "tool", "tool": "tool",
}  # fmt: skip
TOOL_FIELDS = ("tool_calls", "tool_call_id", "name")  # that a chat template may need of a message
PROMPT_COLUMNS = ("prompt", "messages", "text", "chosen")  # the first that a row has
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant): ?")
TRANSCRIPT_ROLES = {SPEAKERS[role]: role for role in ("user", "assistant")}


class BadRow(ValueError):
    """A row that cannot be used; its text is the reason, counted in the report.

    The reason may quote the row: it is printable, and short.
    """

    def __init__(self, reason: str):
        super().__init__(printable(shortened(reason, 300)))


def as_messages(prompt: Prompt) -> list[Message]:
    """Turn a prompt into messages; a string is a user turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def prompt_of(row: dict[str, Any]) -> Prompt:
    """Read the prompt of a row, from whichever column holds it.

    Raises:
        BadRow: no column holds one.
    """
    return read_prompt(next((row[k] for k in PROMPT_COLUMNS if row.get(k) is not None), None))


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
    if prompt[-1].get("role") in (None, "assistant", "system"):
        raise ValueError(
            f"{where}: the prompt ends with the role {prompt[-1].get('role')!r}; it must end with "
            "a user's turn"
        )
    return prompt


def read_prompt(value: Any) -> Prompt:
    """Read a prompt: a string, messages, or a transcript that ends before or with an answer."""
    if is_transcript(value):
        value = parse_transcript(value)
    if isinstance(value, list):
        messages = read_messages(value)
        if messages[-1]["role"] == "assistant":  # an empty last turn, or an answer not asked for
            messages = messages[:-1]
        if not messages:
            raise BadRow("no turn before the answer")
        return messages
    if not isinstance(value, str):
        raise BadRow(f"prompt is {type(value).__name__}, not text")
    return value


def is_transcript(value: Any) -> bool:
    """Tell whether a value is an Anthropic-HH transcript."""
    return isinstance(value, str) and bool(TRANSCRIPT_TURN.match(value))


def parse_transcript(text: str) -> list[Message]:
    """Read an HH transcript ("\\n\\nHuman: ... \\n\\nAssistant: ...") as messages."""
    pieces = TRANSCRIPT_TURN.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        raise BadRow("a transcript must start with a Human or Assistant turn")
    return [
        {"role": TRANSCRIPT_ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def read_messages(value: Iterable[Any] | None) -> list[Message]:
    """Read messages ``{"role", "content"}``, or ShareGPT's ``{"from", "value"}``.

    Role, content and ``TOOL_FIELDS`` are kept, anything else is left out.
    """
    if not value:
        raise BadRow("no messages")
    return [_message(message) for message in value]


def _message(raw: Any) -> Message:
    if isinstance(raw, dict) and raw.get("from") is not None:
        if raw["from"] not in SHAREGPT_ROLES or not isinstance(raw.get("value"), str):
            raise BadRow(f"a turn must have a value and be from one of {[*SHAREGPT_ROLES]}")
        return {"role": SHAREGPT_ROLES[raw["from"]], "content": raw["value"]}
    role, content = (raw.get("role"), raw.get("content")) if isinstance(raw, dict) else (None, None)
    if content is None and isinstance(raw, dict) and raw.get("tool_calls"):
        content = ""  # the message consists of its tool calls
    if not isinstance(role, str) or not isinstance(content, str):
        raise BadRow("a message must have a role and a content, both text")
    tools = {key: without_none(raw[key]) for key in TOOL_FIELDS if raw.get(key)}
    return {"role": role, "content": content, **tools}


def without_none(value: Any) -> Any:
    """Drop the keys with None, at any depth: a table fills absent arguments of calls with None."""
    if isinstance(value, dict):
        return {key: without_none(v) for key, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


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
