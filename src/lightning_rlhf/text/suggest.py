"""Suggest the word that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar of the words; None if none is similar."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Suggest the most similar of the words as a clause; if none is similar, list them all."""
    words = sorted(words)
    near = nearest(word, words)
    return f"did you mean {near}?" if near else f"there is {', '.join(words)}"
