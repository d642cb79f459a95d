"""Read one chat message, in the spelling of whatever tool wrote it."""

from __future__ import annotations

import json
from typing import Any

from lightning_rlhf.text.display import printable, shortened

Message = dict[str, Any]  # role, content, and what ``read_message`` lists
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai"),
        "assistant",
    ),
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(
        ("tool", "function", "observation", "ipython", "environment", "tool_response",
         "tool_result", "function_response"),
        "tool",
    ),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "assistant"),
}  # fmt: skip
CALLERS = ("function_call", "tool_call", "tool_calls")  # their text is a call
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
TEXT_KEYS = ("content", "value", "text", "body", "refusal")
REASONING = ("reasoning_content", "reasoning", "thinking")
# switches of the loss, and those that are on where the loss is off
WEIGHTS = ("weight", "loss", "loss_weight", "loss_scale", "train", "training", "trainable")
MASKS = ("mask", "masked")
PREFIXES = ("prefix", "partial")  # a message to be continued
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
UNREAD = (*MEDIA, "train_detail", "training_detail")  # they change what a message means
TEXT_PARTS = (None, "text", "input_text", "output_text", "refusal")
OFF, ON = (False, 0, "0", "false"), (True, 1, "1", "true")
PLAIN = {role: role for role in ("user", "assistant", "system")}
NOT_A_MESSAGE = "a message must have a role and a content, both text"


class BadRow(ValueError):
    """A row that cannot be used; its text is the reason, counted in the report.

    The reason may quote the row: it is printable, and short.
    """

    def __init__(self, reason: str):
        super().__init__(printable(shortened(reason, 300)))


def is_message(value: Any) -> bool:
    """Tell whether a value has the role of a message, in any spelling."""
    return isinstance(value, dict) and _named(value) in ROLES


def is_table(value: Any) -> bool:
    """Tell whether a value has a list of roles: messages with a list for each of their keys."""
    return isinstance(value, dict) and any(isinstance(value.get(key), list) for key in ROLE_KEYS)


def read_message(raw: Any) -> Message:
    """Read a message into ``{"role", "content"}``, both text, and what else it says.

    That is: ``tool_calls``, ``tool_call_id`` and ``name``; ``reasoning_content``; ``train``, False
    where the loss of an assistant's turn is switched off; ``prefix``, True where it is to be
    continued. Read again, a message stays as it is.

    Raises:
        BadRow: it is not a message, or says something that is not read.
    """
    if not isinstance(raw, dict):
        raise BadRow(NOT_A_MESSAGE)
    content = raw.get("content")
    if len(raw) == 2 and type(content) is str:
        role = raw.get("role")
        if type(role) is str and role in PLAIN:
            return {"role": role, "content": content}
    return _read(raw)


def _read(raw: dict[str, Any]) -> Message:
    name = _named(raw)
    if name is None:
        raise BadRow(NOT_A_MESSAGE)
    if name not in ROLES:
        raise BadRow(f"the role {name[:40]!r} is not known")
    for key in UNREAD:
        if raw.get(key):
            raise BadRow(f"a message has {key}, and only its text is read")
    role = ROLES[name]
    text, thoughts, calls = _content(raw)
    calls += _calls(raw)
    if name in CALLERS and text and (called := _written_calls(text)):
        text, calls = "", [*called, *calls]
    if text is None:
        if not calls:
            raise BadRow(NOT_A_MESSAGE)
        text = ""  # the message consists of its tool calls
    message: Message = {"role": role, "content": text}
    if calls:
        message["tool_calls"] = [without_none(call) for call in calls]
    for key in ("tool_call_id", "name"):
        if raw.get(key):
            message[key] = raw[key]
    thoughts += _thoughts(raw)
    if thoughts:
        if role != "assistant":
            raise BadRow(f"a {role} turn has reasoning")
        message["reasoning_content"] = thoughts
    if role == "assistant":
        if not _trained(raw):
            message["train"] = False
        if any(_switch(raw, key) for key in PREFIXES):
            message["prefix"] = True
    return message


def _named(raw: dict[str, Any]) -> str | None:
    """Find the name of a message's role, in small letters; None if it has none."""
    name = next((raw[key] for key in ROLE_KEYS if raw.get(key) is not None), None)
    if isinstance(name, dict):  # an author with a role
        name = name.get("role")
    return name.strip().lower() if isinstance(name, str) else None


# ---- content ----


def _content(raw: dict[str, Any]) -> tuple[str | None, str, list[Any]]:
    """Read the text of a message, its reasoning and its calls, where these are parts of it."""
    found = {key: raw[key] for key in TEXT_KEYS if isinstance(raw.get(key), str | list | dict)}
    spoken = [key for key in found if found[key] != ""] or list(found)
    if not spoken:
        return None, "", []
    if any(found[key] != found[spoken[0]] for key in spoken):
        raise BadRow(f"a message has both {spoken[0]} and {spoken[1]}")
    content = found[spoken[0]]
    if isinstance(content, dict):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if isinstance(content, str):
        return content, "", []
    texts, thoughts, calls = [], [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("thinking", "reasoning"):
            thoughts.append(_part(part, *REASONING, "text"))
        elif kind == "tool_use":
            function = {"name": part.get("name"), "arguments": part.get("input")}
            calls.append({"id": part.get("id"), "type": "function", "function": function})
        else:
            texts.append(_part(part, "text", "content", "refusal"))
    return "".join(texts), "".join(thoughts), calls


def _part(part: Any, *keys: str) -> str:
    """Read the text of a part of a content, or of parts within it."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadRow(f"a message has a part that is {type(part).__name__}, not text")
    kind = part.get("type")
    if kind not in (*TEXT_PARTS, "thinking", "reasoning"):
        raise BadRow(f"a message has a part of type {str(kind)[:40]!r}, and only text is read")
    held = [key for key in (*MEDIA, "image_url", "input_audio", "file") if part.get(key)]
    if held:
        raise BadRow(f"a message has a part with {held[0]}, and only text is read")
    value = next((part[key] for key in keys if part.get(key) is not None), None)
    if isinstance(value, list):
        return "".join(_part(inner, *keys) for inner in value)
    if not isinstance(value, str):
        raise BadRow("a text part of a message has no text")
    return value


def _thoughts(raw: dict[str, Any]) -> str:
    found = [raw[key] for key in REASONING if raw.get(key)]
    if any(thought != found[0] for thought in found):
        raise BadRow("a message has two texts of reasoning")
    if not found:
        return ""
    return _part({"text": found[0]}, "text")


# ---- calls ----


def _calls(raw: dict[str, Any]) -> list[Any]:
    """Read the calls of a message: a list of them, or the one of the old OpenAI form."""
    calls, old = (_decoded(raw.get(key), key) for key in ("tool_calls", "function_call"))
    if calls and old:
        raise BadRow("a message has both tool_calls and function_call")
    if old:
        return [_function(old)]
    if calls and not (isinstance(calls, list) and all(isinstance(c, dict) for c in calls)):
        raise BadRow("tool_calls is not a list of calls")
    return calls or []


def _decoded(value: Any, key: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as reason:
        raise BadRow(f"{key} is text but not JSON") from reason


def _function(call: Any) -> dict[str, Any]:
    """Make a call of a function's name and arguments."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise BadRow("function_call is not a name with arguments")
    arguments = call.get("arguments", call.get("parameters"))
    function = {"name": call["name"], "arguments": {} if arguments is None else arguments}
    return {"type": "function", "function": function}


def _written_calls(text: str) -> list[dict[str, Any]]:
    """Read a turn's text as the JSON of calls; empty if it is not."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = value if isinstance(value, list) else [value]
    keys = {"name", "arguments", "parameters"}
    named = (isinstance(c, dict) and isinstance(c.get("name"), str) and c.keys() <= keys
             for c in calls)  # fmt: skip
    return [_function(call) for call in calls] if all(named) else []


def without_none(value: Any) -> Any:
    """Drop the keys with None, at any depth: a table fills absent arguments of calls with None."""
    if isinstance(value, dict):
        return {key: without_none(v) for key, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


# ---- switches ----


def _trained(raw: dict[str, Any]) -> bool:
    """Read whether the loss of a message is on; no key says that it is not."""
    said = {on for key in WEIGHTS if (on := _switch(raw, key)) is not None}
    for key in MASKS:
        if key == "mask" and raw.get(key) is not None and not isinstance(raw[key], bool):
            raise BadRow(f"a message has mask {raw[key]!r}, which can mean both: use weight 0 or 1")
        if (masked := _switch(raw, key)) is not None:
            said.add(not masked)
    if len(said) > 1:
        raise BadRow("a message has switches of its loss that say different things")
    return said != {False}


def _switch(raw: dict[str, Any], key: str) -> bool | None:
    """Read a switch; None if the message has none.

    Raises:
        BadRow: it is something between on and off.
    """
    value = raw.get(key)
    if value is None:
        return None
    value = value.lower() if isinstance(value, str) else value
    if isinstance(value, list | dict) or value not in (*OFF, *ON):
        raise BadRow(f"a message has {key} {str(value)[:40]}, and only 0 and 1 are read")
    return value in ON
