"""Detectors of bad revisions, each from the text alone: the measurements behind the gates."""

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
OPENING = 200  # characters: a later mention is talk about refusing, or declines a part
CONFUSED = re.compile(
    r"^\W*(?:critique|criticism|revision|revised (?:answer|response|version)|rewrite)\b\W*:"
    r"|\b(?:critique|revision) ?request\b"
    r"|\b(?:here is|here's|below is|this is) (?:a|an|the|my) (?:\w+ )?"
    r"(?:revis|rewritten|rewrite|edited|corrected|improved|updated|critique)\w*"
    r"|\b(?:my|the|your) (?:last|previous|preceding|original|above) (?:answer|response|reply)\b"
    r"|^\W*(?:human|user|assistant)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
SPREAD = 3  # prompts whose answers must share a phrase before it counts
REPEATED = 0.5  # share of word triples that are repeats


class Phrase(NamedTuple):
    """Word n-gram that is in more answers than drafts."""

    text: str
    before: float  # share of drafts with it
    after: float  # share of answers

    @property
    def rise(self) -> float:
        return self.after - self.before


def words(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def is_copy(draft: str, answer: str, similar: float) -> bool:
    """True if an answer differs from its draft but keeps almost all of its words in order."""
    if draft.strip() == answer.strip():
        return False
    matcher = SequenceMatcher(None, draft.split(), answer.split(), autojunk=False)
    return matcher.quick_ratio() >= similar and matcher.ratio() >= similar


def confuses_roles(answer: str) -> bool:
    """True if an answer mentions the critique or revision, or writes a speaker's turn."""
    return CONFUSED.search(answer) is not None


def is_refusal(text: str) -> bool:
    """True if a text begins by declining."""
    opening = text[:OPENING].lower().replace("’", "'")
    return DECLINES.search(opening) is not None


def loops(answer: str, n: int = 3, least: int = 8) -> bool:
    """True if most n-grams of an answer are repeats."""
    tokens = answer.split()
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(grams) >= least and 1 - len(set(grams)) / len(grams) > REPEATED


def length_ratio(draft: str, answer: str) -> float:
    """Ratio of an answer's words to its draft's; an empty draft counts as one word."""
    return len(answer.split()) / max(1, len(draft.split()))


def phrases(text: str, n: int) -> set[str]:
    """Set of a text's word n-grams."""
    tokens = words(text)
    return {" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def risen(
    answers: Sequence[tuple[str, str]], drafts: Sequence[str], n: int, top: int = 10
) -> list[Phrase]:
    """Find the phrases whose share of texts rose most from drafts to answers; ties go by name.

    Args:
        answers: (prompt's id, text). A phrase counts if answers to three prompts have it.
        drafts: one per answer.
        n: words per phrase.
        top: number of phrases.
    """
    after: Counter[str] = Counter()
    sources: dict[str, set[str]] = {}
    for source, text in answers:
        for phrase in phrases(text, n):
            after[phrase] += 1
            sources.setdefault(phrase, set()).add(source)
    before = Counter(p for text in drafts for p in phrases(text, n))
    candidates = [
        Phrase(p, before[p] / len(drafts), k / len(answers))
        for p, k in after.items()
        if len(sources[p]) >= SPREAD
    ]
    return sorted((p for p in candidates if p.rise > 0), key=lambda p: (-p.rise, p.text))[:top]
