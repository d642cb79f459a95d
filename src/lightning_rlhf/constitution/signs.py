"""Signs of a bad revision, each told from the text alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

REFUSALS = (
    "i can't help", "i cannot help", "i won't help", "i will not help", "i'm not able to",
    "i am not able to", "i'm unable to", "i am unable to", "i can't assist", "i cannot assist",
    "i can't provide", "i cannot provide", "i can't answer", "i cannot answer", "i can't do that",
    "i cannot do that", "i must decline", "i have to decline", "i won't do that", "i refuse",
    "it would be wrong of me", "it is not appropriate", "it's not appropriate",
    "it would be inappropriate", "as an ai", "as a language model", "against my guidelines",
)  # fmt: skip
DECLINES = re.compile(rf"\b(?:{'|'.join(map(re.escape, REFUSALS))})\b")
OPENING = 200  # characters: later mentions are talk about refusing, or a part declined
CONFUSED = re.compile(
    r"^\W*(?:critique|criticism|revision|revised (?:answer|response|version)|rewrite)\b\W*:"
    r"|\b(?:critique|revision) ?request\b"
    r"|\b(?:here is|here's|below is|this is) (?:a|an|the|my) (?:\w+ )?"
    r"(?:revis|rewritten|rewrite|edited|corrected|improved|updated|critique)\w*"
    r"|\b(?:my|the|your) (?:last|previous|preceding|original|above) (?:answer|response|reply)\b"
    r"|^\W*(?:human|user|assistant)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
SPREAD = 3  # different prompts whose answers share a phrase, before it is called one
REPEATED = 0.5  # share of word triples that have come before


class Phrase(NamedTuple):
    """Words that stand in more answers than drafts."""

    text: str
    before: float  # share of drafts that hold it
    after: float  # share of answers

    @property
    def rise(self) -> float:
        return self.after - self.before


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation around them."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def is_copy(draft: str, answer: str, similar: float) -> bool:
    """Whether an answer that is not the draft has almost all of its words in their order."""
    if draft.strip() == answer.strip():
        return False
    matcher = SequenceMatcher(None, draft.split(), answer.split(), autojunk=False)
    return matcher.quick_ratio() >= similar and matcher.ratio() >= similar


def confuses_roles(answer: str) -> bool:
    """Whether an answer talks about the critique or the revision, or plays a speaker."""
    return CONFUSED.search(answer) is not None


def is_refusal(text: str) -> bool:
    """Whether a text begins by declining."""
    opening = text[:OPENING].lower().replace("’", "'")
    return DECLINES.search(opening) is not None


def loops(answer: str, n: int = 3, least: int = 8) -> bool:
    """Whether most n-grams of an answer have come before in it."""
    said = answer.split()
    grams = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
    return len(grams) >= least and 1 - len(set(grams)) / len(grams) > REPEATED


def length_ratio(draft: str, answer: str) -> float:
    """Words of an answer to words of its draft; an empty draft counts as one word."""
    return len(answer.split()) / max(1, len(draft.split()))


def phrases(text: str, n: int) -> set[str]:
    """The word n-grams of a text."""
    said = words(text)
    return {" ".join(said[i : i + n]) for i in range(len(said) - n + 1)}


def risen(
    answers: Sequence[tuple[str, str]], drafts: Sequence[str], n: int, top: int = 10
) -> list[Phrase]:
    """The phrases whose share of texts rose most against the drafts, equal ones by name.

    Args:
        answers: each with the name of what it is an answer to: a phrase counts from three of them.
        drafts: one for each answer.
        n: words of a phrase.
        top: how many phrases.
    """
    after: Counter[str] = Counter()
    sources: dict[str, set[str]] = {}
    for source, text in answers:
        for phrase in phrases(text, n):
            after[phrase] += 1
            sources.setdefault(phrase, set()).add(source)
    before = Counter(p for text in drafts for p in phrases(text, n))
    found = [
        Phrase(p, before[p] / len(drafts), k / len(answers))
        for p, k in after.items()
        if len(sources[p]) >= SPREAD
    ]
    return sorted((p for p in found if p.rise > 0), key=lambda p: (-p.rise, p.text))[:top]
