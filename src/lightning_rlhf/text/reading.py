"""One sentence for whatever a library says about a file that it cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 200  # characters of a library's message


@contextmanager
def reading(what: str, fix: str) -> Iterator[None]:
    """Raise what a library raises as one sentence; only memory that runs out passes.

    Args:
        what: the file and what it should be.
        fix: what to do.

    Raises:
        ValueError: names the file and the library's reason.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise
        raise ValueError(f"{what} cannot be read ({reason_of(error)}): {fix}") from error


def reason_of(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return f"{type(error).__name__}: {short}" if short else type(error).__name__
