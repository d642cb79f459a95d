"""Make text from models, files and servers safe to print: it moves no terminal and stays short."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# All but tab and newline; also characters that turn the direction of text, and half characters,
# which no terminal can encode.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
HALF = re.compile("[\ud800-\udfff]")  # half of a character pair, which has no UTF-8
LONGEST = 600  # characters of a sentence
SECRET = re.compile(  # in a URL: user:password@, or a key in its query
    r"(://(?=[^/\s@]*@)|[?&](?:api[-_]?key|access[-_]?token|key|token|secret|sig)=)[^&\s@'\"]+",
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """Replace control characters by U+FFFD: a model or a file can write a terminal escape."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def shortened(text: str, most: int = LONGEST) -> str:
    """Cut the middle out of a text that is too long: its beginning and its end say most."""
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 5]} ... {text[len(text) - tail :]}"


def sentence_of(error: object) -> str:
    """Write an error on a line of its own: printable, short, without a password or key of a URL."""
    return shortened(SECRET.sub(r"\1***", printable(str(error))))


def named(value: Any, most: int = 40) -> str:
    """Write a name of a file in a message, printable and short."""
    return printable(shortened(str(value), most))


def quoted(value: Any, most: int = 80) -> str:
    """Quote a value of a file in a message: as Python writes it, printable and short."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of too many digits
        text = type(value).__name__
    return printable(shortened(text, most))


class PrintableLog(logging.Filter):
    """Make every message of a logger printable."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), None
        return True


class PrintableConsole(Console):
    """The console of every verb: nothing that is printed moves the terminal.

    Strings are printed as they are: no markup is read in them, for a path may hold brackets.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
