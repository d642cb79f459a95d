"""Make text from models and files safe to print."""

from __future__ import annotations

import re

# all but tab and newline; also the characters that turn the direction of text
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace control characters by U+FFFD: a model can write a terminal escape."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
