"""List the columns that change what a row means, in whatever layout they stand.

A column that is neither here nor part of a layout is not read, which the log says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Known(NamedTuple):
    """What a kind of column is called, and what becomes of it."""

    names: str  # separated by spaces; upper and lower case are one
    said: str  # for the log, around the name of the column
    does: str  # for the docs


KNOWN = {
    "system": Known(
        "system system_prompt system_message system_instruction",
        "{} as the system turn",
        "becomes the system turn before the prompt; a row that has another system turn is dropped",
    ),
    "passage": Known(
        "context contexts passage passages document documents input background article",
        "{} under the question",
        "follows the user's turn after an empty line, a text or a list of texts, unless it is "
        "there already; a row with several user's turns, or without one, is dropped",
    ),
    "history": Known(
        "history chat_history conversation_history",
        "{} as earlier turns",
        "becomes the turns before the prompt, from messages or pairs of question and answer",
    ),
    "tools": Known(
        "tools functions",
        "{} as tools",
        "is given to the chat template, a list of schemas or its JSON",
    ),
    "reasoning": Known(
        "reasoning reasoning_content thinking chain_of_thought cot",
        "{} as the answer's reasoning",
        "becomes the reasoning of the one answer of a row; a row with several answers is dropped: "
        "it does not say whose it is; prompts alone do not need it",
    ),
    "choices": Known(
        "choices options answer_choices endings",
        "drops rows whose prompt lacks {}",
        "is not read, and a row whose prompt lacks one of these texts is dropped",
    ),
    "media": Known(
        "image images image_path video videos audio audios",
        "drops rows with {}",
        "is not read, and a row where it holds something is dropped",
    ),
    "weight": Known(
        "weight loss loss_weight loss_scale sample_weight train training trainable",
        "drops rows that {} switches off",
        "drops a row with 0 or false, and one with another weight than 1",
    ),
    "tree": Known(
        "parent_id parent parent_message_id reply_to role",
        "{} to tell messages from texts",
        "beside `text`, a row is one message of a conversation, and the source is refused; beside "
        "anything else it is not read",
    ),
}
KIND_OF = {name: kind for kind, known in KNOWN.items() for name in known.names.split()}


def known_beside(columns: Sequence[str], read: set[str]) -> dict[str, str]:
    """Return the known columns that a layout does not read itself, with their kinds.

    All known names are among them: a later row of a stream may have one.
    """
    names = {c: KIND_OF[c.lower()] for c in columns if c.lower() in KIND_OF}
    names = {**names, **KIND_OF}
    return {
        name: names[name] for name in sorted(names) if name not in read and names[name] != "tree"
    }


def table() -> str:
    """Write the table of the docs."""
    lines = ["| column | what it does |", "|---|---|"]
    for known in KNOWN.values():
        names = ", ".join(f"`{name}`" for name in known.names.split())
        lines.append(f"| {names} | {known.does} |")
    return "\n".join(lines)
