"""Put what stands in other columns of a row where it belongs: system turn, passage, history, tools.

A row that cannot hold it is dropped: without it, the row would say something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lightning_rlhf.data.known_columns import KNOWN
from lightning_rlhf.text.messages import (
    BadRow,
    Message,
    Prompt,
    is_message,
    is_transcript,
    parse_transcript,
    prompt_of,
    read_messages,
    read_prompt,
    read_turns,
)

Row = dict[str, Any]
Found = dict[str, tuple[str, Any]]  # kind -> column and its value
SWITCHES = {"on", "off", "yes", "no"}  # of reasoning: they hold none
SHORT = 40  # characters of a text that may stand in another by chance
# the mark of an image at either end of a text, and not an element of HTML or XML
PLACEHOLDER = re.compile(
    r"\A\s*(<(?:image|video|audio)>)(?!\s*<(?!image|video|audio))|(<(?:image|video|audio)>)\s*\Z"
)
OFF, ON = (False, 0, "0", "false"), (True, 1, "1", "true")
ELSE = "; rename the column if it is something else"


def find(row: Row, kinds: dict[str, str]) -> Found:
    """Find the filled cells of known columns.

    Raises:
        BadRow: the row is switched off or needs more than text, or two columns of one kind say
            different things.
    """
    found: Found = {}
    for name, value in row.items():
        kind = kinds.get(name)
        if kind is None or value is None or value in ("", [], {}):
            continue
        if isinstance(value, str) and not value.strip():
            continue
        if kind == "media":
            raise BadRow(f"{name} is not read: only text is")
        if kind == "weight":
            _check_switch(name, value)
        elif kind == "passage" and kind in found:
            before, texts = found[kind]
            found[kind] = f"{before} or {name}", [*_list(texts), *_list(value)]
        elif kind in found and found[kind][1] != value:
            raise BadRow(f"{found[kind][0]} and {name} say different things{ELSE}")
        else:
            found[kind] = name, value
    return found


def _check_switch(name: str, value: Any) -> None:
    value = value.strip().lower() if isinstance(value, str) else value
    if value in OFF:
        raise BadRow(f"{name} switches the row off")
    if value not in ON:
        raise BadRow(f"{name} {value!r} is neither 0 nor 1, and rows are not weighed{ELSE}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def surrounded(row: Row, found: Found, *, alone: bool) -> Row:
    """Put the found cells into a row of our columns.

    Args:
        row: our columns.
        found: what stands beside them.
        alone: True for a prompt alone.

    Raises:
        BadRow: one of them cannot be read, or has no place.
    """
    if "tools" in found:
        row = {**row, "tools": found["tools"][1]}
    if "reasoning" in found and not alone:
        row = _with_reasoning(row, *found["reasoning"])
    if found.keys() & {"system", "passage", "history", "choices"}:
        row = _placed(row, lambda turns: _around(turns, found), alone)
    return row


def check_placeholders(row: Row) -> None:
    """Check that no text has the mark of an image, which is not there.

    Raises:
        BadRow: one has.
    """
    for name in ("prompt", "messages", "chosen"):
        value = row.get(name)
        texts: list[Any] = [value]
        if isinstance(value, list):
            texts = [m.get("content") for m in value if isinstance(m, dict)]
        for text in texts:
            if isinstance(text, str) and "<" in text and (mark := PLACEHOLDER.search(text)):
                raise BadRow(f"{mark[1] or mark[2]} stands for what is not text: only text is read")


# ---- the place ----


def _placed(row: Row, around: Callable[[Prompt], Prompt], alone: bool) -> Row:
    """Apply a change to the conversation that a row begins with, wherever it is."""
    if alone:
        return {**row, "prompt": around(prompt_of(row))}
    if row.get("messages") is not None:
        return {**row, "messages": around(read_messages(row["messages"]))}
    if "text" in row:
        return _text(row["text"], around)
    whole = {k: _whole(row.get(k)) for k in ("chosen", "rejected", "completion")}
    changed = {k: around(turns) for k, turns in whole.items() if turns is not None}
    prompt = row.get("prompt")
    if isinstance(row.get("completions"), list) and any(map(_whole, row["completions"])):
        raise BadRow("a column beside completions that are whole conversations has no place")
    if prompt is not None and (not changed or read_turns(prompt) is not None):
        changed["prompt"] = around(read_prompt(prompt))
    return {**row, **changed}


def _whole(value: Any) -> list[Message] | None:
    """Read a side that begins with what it answers; None for an answer alone."""
    if isinstance(value, list) and not (value and is_message(value[0])):
        return None
    turns = read_turns(value)
    return turns if turns and turns[0]["role"] != "assistant" else None


def _text(text: Any, around: Callable[[Prompt], Prompt]) -> Row:
    if is_transcript(text):
        return {"messages": around(parse_transcript(text))}
    if not isinstance(text, str) or around(text) != text:
        raise BadRow(f"a whole text stands beside a column that it lacks{ELSE}")
    return {"text": text}


# ---- what is put there ----


def _around(prompt: Prompt, found: Found) -> Prompt:
    if "passage" in found:
        prompt = _with_passage(prompt, *found["passage"])
    if "choices" in found:
        _check_choices(prompt, *found["choices"])
    if "history" in found:
        prompt = _with_history(prompt, *found["history"])
    return _with_system(prompt, *found["system"]) if "system" in found else prompt


def _turns(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _with_system(prompt: Prompt, name: str, value: Any) -> Prompt:
    if not isinstance(value, str):
        raise BadRow(f"{name} is {type(value).__name__}, not text{ELSE}")
    if isinstance(prompt, str) and prompt.lstrip().startswith(value.strip()):
        return prompt
    turns = _turns(prompt)
    if turns[0]["role"] not in ("system", "developer"):
        return [{"role": "system", "content": value}, *turns]
    if value.strip() not in turns[0]["content"]:
        raise BadRow(f"{name} is another text than the system turn")
    return turns


def _with_passage(prompt: Prompt, name: str, value: Any) -> Prompt:
    texts = _list(value)
    if not all(isinstance(text, str) for text in texts):
        kind = type(value).__name__ if texts == [value] else f"a list of {type(texts[0]).__name__}"
        raise BadRow(f"{name} is {kind}, not text{ELSE}")
    lacking = [t for t in texts if t.strip() and not _holds(prompt, t)]
    passage = "\n\n".join(lacking)
    if not lacking:
        return prompt
    if isinstance(prompt, str):
        return f"{prompt}\n\n{passage}" if prompt else passage
    asked = [i for i, m in enumerate(prompt) if m["role"] == "user"]
    if len(asked) != 1:
        raise BadRow(f"{name} is not in the conversation{ELSE}")
    turns = [dict(m) for m in prompt]
    turns[asked[0]]["content"] += "\n\n" + passage
    return turns


def _holds(prompt: Prompt, text: str) -> bool:
    """Tell whether a text is in a prompt; a short one must be a line of its own."""
    text = text.strip()
    said = "\n".join(m["content"] for m in _turns(prompt))
    if len(text) < SHORT:
        return text in (line.strip() for line in said.splitlines())
    return text in said


def _check_choices(prompt: Prompt, name: str, value: Any) -> None:
    texts = value.get("text") if isinstance(value, dict) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return
    said = "\n".join(m["content"] for m in _turns(prompt))
    if not all(text.strip() in said for text in texts):
        raise BadRow(f"{name} is not in the prompt{ELSE}")


def _with_history(prompt: Prompt, name: str, value: Any) -> Prompt:
    before = _read_history(name, value)
    turns = _turns(prompt)
    system = [m for m in turns[:1] if m["role"] in ("system", "developer")]
    rest = turns[len(system) :]
    if rest[: len(before)] == before:
        return prompt
    if system and before[0]["role"] in ("system", "developer"):
        raise BadRow(f"{name} begins with another system turn")
    return [*system, *before, *rest]


def _read_history(name: str, value: Any) -> list[Message]:
    if isinstance(value, list) and all(isinstance(t, list | tuple) and len(t) == 2 for t in value):
        roles = ("user", "assistant")
        cells = [(role, said) for turn in value for role, said in zip(roles, turn, strict=True)]
        if all(isinstance(said, str) for _, said in cells):
            return [{"role": role, "content": said} for role, said in cells]
    turns = None
    if is_transcript(value) or (isinstance(value, list) and all(map(is_message, value))):
        turns = read_turns(value)
    if not turns:
        raise BadRow(f"{name} is neither messages nor pairs of question and answer{ELSE}")
    return turns


def _with_reasoning(row: Row, name: str, value: Any) -> Row:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in SWITCHES):
        return row
    if not isinstance(value, str):
        raise BadRow(f"{name} is {type(value).__name__}, not text{ELSE}")
    if row.get("messages") is not None and _reasons(read_messages(row["messages"]), value):
        return row
    if row.get("completion") is None:
        raise BadRow(f"{name} stands beside no single answer{ELSE}")
    turns = read_turns(row["completion"])
    if turns is None:
        turns = [{"role": "assistant", "content": row["completion"]}]
    if len(turns) != 1:
        raise BadRow(f"{name} stands beside several turns{ELSE}")
    (turn,) = turns
    if value.strip() in (turn.get("reasoning_content") or turn["content"]):
        return row
    if turn.get("reasoning_content"):
        raise BadRow(f"{name} is another text than the answer's reasoning")
    return {**row, "completion": [{**turn, "reasoning_content": value}]}


def _reasons(turns: list[Message], text: str) -> bool:
    return any(text.strip() in m["content"] + m.get("reasoning_content", "") for m in turns)


def said(columns: dict[str, str]) -> list[str]:
    """Say what is done with known columns."""
    return [KNOWN[kind].said.format(name) for name, kind in columns.items()]
