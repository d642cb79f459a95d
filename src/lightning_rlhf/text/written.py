"""Read messages that a table stored as text: their JSON, or what Python prints of them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from lightning_rlhf.text.dialects import ROLE_KEYS, TEXT_KEYS, BadRow, is_message

LONGEST = 1_000_000  # characters
START = re.compile(r"\s*(?:\[\s*)?\{\s*['\"]")
ROLE = re.compile(f"['\"](?:{'|'.join(ROLE_KEYS)})['\"]\\s*:")
BETWEEN = re.compile(r"\}\s*\n\s*\{")  # numpy prints no comma; text has no bare line end in a repr


def read_written(text: str) -> list[Any] | dict[str, Any] | None:
    """Read messages, or one message, from a text; None if it is another text.

    Raises:
        BadRow: it starts like messages, but is cut, broken, or too long.
    """
    if not START.match(text) or not ROLE.search(text):
        return None
    value = _value(text) if len(text) <= LONGEST else None
    if value is None:
        if looks_cut(text):
            raise BadRow("text that starts like messages is neither JSON nor Python's list of them")
        return None
    messages = value if isinstance(value, list) else [value]
    told = all(isinstance(m, dict) and _has_text(m) for m in messages)
    return value if told and any(map(is_message, messages)) else None


def looks_cut(text: str) -> bool:
    """Tell whether the first entry of a text has the keys of a message."""
    head = text[:2000]
    return any(f"{q}{key}{q}" in head for q in "'\"" for key in ("content", "value"))


def _has_text(message: dict[str, Any]) -> bool:
    named = any(message.get(key) is not None for key in ROLE_KEYS)
    spoken = (message[key] for key in TEXT_KEYS if message.get(key) is not None)
    return named and all(isinstance(text, str | list) for text in spoken)


def _value(text: str) -> Any:
    """Parse a text; None if it is neither JSON nor Python. Both parsers bound its depth."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    for written in (text, BETWEEN.sub("}, {", text)):
        try:
            return ast.literal_eval(written.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None
