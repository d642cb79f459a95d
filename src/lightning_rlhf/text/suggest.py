"""Suggest the word that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lightning_rlhf.text.display import shortened

LONGEST = 100  # characters of a word that are compared


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar of the words; None if none is similar."""
    near = difflib.get_close_matches(word[:LONGEST], list(words), n=1)
    return next(iter(near), None)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Suggest the most similar of the words as a clause; if none is similar, list them all."""
    words = sorted(words)
    near = nearest(word, words)
    return f"did you mean {near}?" if near else shortened(f"there is {', '.join(words)}", 300)
