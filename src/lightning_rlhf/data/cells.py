"""Look at the cells of a source: what their form means is decided for all of its rows at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset

from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.text.messages import SYSTEM, BadRow, is_transcript, read_turns, says_something
from lightning_rlhf.text.written import read_written

Row = dict[str, Any]
Read = Callable[[Row], Row]
LOOKED_AT = 200  # rows of a source
MOST = 0.9  # share of them that decides
SHORTEST = 8  # characters of a prompt that no answer begins with by chance
FOREIGN = ("<|im_start|>", "<|start_header_id|>", "<|begin_of_text|>", "<start_of_turn>",
           "<|user|>", "[INST]", "<s>[INST]", "Human: ")  # fmt: skip


class Cells(NamedTuple):
    """Meaning of the cells of a source."""

    written: tuple[str, ...]  # columns whose text is of messages, sorted
    repeats: bool  # answers begin with their prompt
    note: str  # clauses for the log


def sample(rows: Dataset) -> list[Row]:
    """Return rows from all parts of a table."""
    step = max(1, len(rows) // LOOKED_AT)
    return list(rows.select(range(0, len(rows), step)))


def look(
    rows: Sequence[Row], read: Read, chat: ChatTemplate | None, *, answers: bool = True
) -> Cells:
    """Look at rows of a source.

    Args:
        rows: some of them, their columns renamed.
        read: layout of the rows -> our columns.
        chat: what they will be written with; None if they are not.
        answers: whether their answers are read.
    """
    written, notes = _written(rows)
    made = []
    for row in rows:
        try:
            made.append(read(_with_messages(row, written)))
        except BadRow:
            continue
    repeats, said = _repeats(made) if answers else (False, [])
    notes += said + _prompts(made, chat)
    return Cells(tuple(sorted(written)), repeats, "".join(f"{note}; " for note in notes))


def reader(cells: Cells, read: Read, chat: ChatTemplate | None) -> Read:
    """Make a function that reads a row with what its cells mean."""
    if not cells.written and not cells.repeats:
        return read
    return partial(_read, read=read, cells=cells, strip=chat is None or chat.jinja is not None)


def _read(row: Row, read: Read, cells: Cells, strip: bool) -> Row:
    made = read(_with_messages(row, cells.written))
    return _without_prompt(made, strip) if cells.repeats else made


# ---- messages as text ----


def _written(rows: Sequence[Row]) -> tuple[set[str], list[str]]:
    """Find the columns whose text is of messages, and say so."""
    filled: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for row in rows:
        for name, cell in row.items():
            for text in cell if isinstance(cell, list) else [cell]:
                if isinstance(text, str) and text.strip():
                    filled[name] += 1
                    held[name] += _holds_messages(text)
    names = {name for name in held if held[name] * 2 > filled[name]}
    notes = []
    for name, count in held.items():
        shares = f"{count} of {filled[name]} cells looked at"
        if name in names and count < filled[name]:
            notes.append(f"{name}: in {shares} text is of messages and read so, the rest is text")
        elif count and name not in names:
            notes.append(f"{name}: in {shares} text is of messages, and all of it is read as text")
    whole = [name for name in held if name in names and held[name] == filled[name]]
    if whole:
        notes.insert(0, f"text of messages is read as messages: {', '.join(whole)}")
    return names, notes


def _holds_messages(text: str) -> bool:
    try:
        return read_written(text) is not None
    except BadRow:
        return True  # cut or broken messages


def _with_messages(row: Row, written: Collection[str]) -> Row:
    if not written:
        return row
    return {name: _cell(cell) if name in written else cell for name, cell in row.items()}


def _cell(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_text(item) for item in cell]
    value = _text(cell)
    return [value] if isinstance(value, dict) else value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = read_written(value)
    return value if found is None else found


# ---- answers that begin with their prompt ----


def _answers(row: Row) -> dict[str, str] | None:
    """Return the answers of a row that are text, by their columns; None if some are not."""
    found = {name: row[name] for name in ("chosen", "rejected", "completion") if row.get(name)}
    if isinstance(row.get("completions"), list):
        found |= {f"completions {i}": text for i, text in enumerate(row["completions"])}
    texts = [row.get("prompt"), *found.values()]
    if not found or not all(isinstance(t, str) and not is_transcript(t) for t in texts):
        return None
    return found


def _rest(prompt: str, answer: str, strip: bool) -> str | None:
    """Return an answer without the prompt that it begins with; None if it does not."""
    for start in (prompt, prompt.strip()):
        rest = answer[len(start) :]
        if not start.strip() or not answer.startswith(start) or not rest.strip():
            continue
        if rest[0].isspace() or not start[-1].isalnum():  # not inside a word or sentence
            return rest.lstrip() if strip or start != prompt else rest
    return None


def _repeats(rows: Sequence[Row]) -> tuple[bool, list[str]]:
    """Tell whether all answers of a source begin with their prompt."""
    texts = [(row["prompt"], found) for row in rows if (found := _answers(row))]
    texts = [(prompt, found) for prompt, found in texts if len(prompt.strip()) >= SHORTEST]
    count = sum(
        all(_rest(prompt, answer, False) is not None for answer in found.values())
        for prompt, found in texts
    )
    share = count / len(texts) if texts else 0.0
    if share < 0.5:
        return False, []
    where = f"in {count} of {len(texts)} rows looked at, every answer begins with its prompt"
    if share < MOST:
        return False, [f"{where}, and is left as it is"]
    return True, [f"{where}, which is taken off"]


def _without_prompt(row: Row, strip: bool) -> Row:
    found = _answers(row) or {}
    rests = {name: _rest(row["prompt"], answer, strip) for name, answer in found.items()}
    if not rests or None in rests.values():
        return row
    if "completions" in row and isinstance(row["completions"], list):
        return {**row, "completions": [r for n, r in rests.items() if n.startswith("completions ")]}
    return {**row, **rests}


# ---- prompts ----


def _prompts(rows: Sequence[Row], chat: ChatTemplate | None) -> list[str]:
    """Say what of the prompts is taken in a way that one may not expect."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(_manners(row, chat))
    return [f"{manner} ({count} of {len(rows)} rows looked at)" for manner, count in counts.items()]


def _manners(row: Row, chat: ChatTemplate | None) -> list[str]:
    prompt, chosen = row.get("prompt"), row.get("chosen")
    try:
        turns, side = read_turns(prompt), read_turns(chosen)
    except BadRow:
        return []
    if turns is not None:
        begun = turns[-1]["role"] == "assistant" and says_something(turns[-1])
        if begun and (side is None or side[0]["role"] == "assistant"):
            return ["an assistant's turn at the end of a prompt is continued by the answer"]
        return []
    if not isinstance(prompt, str):
        return []
    if side is not None and side[0]["role"] in ("user", *SYSTEM):
        told = any(m["content"].strip() == prompt.strip() for m in side)
        return [] if told else ["the text prompt beside whole conversations is not read"]
    if chat is not None and chat.rendered is not None and chat.rendered.holds(prompt):
        return ["prompts have the chat template's marks and are taken as they are"]
    mark = next((mark for mark in FOREIGN if prompt.lstrip().startswith(mark)), None)
    if mark is None:
        return []
    return [f"prompts start with {mark!r}, a mark of another chat template, and it stays text"]
