"""Evaluate a judge against human preferences, before it labels anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.seeds import row_id, share_of
from lightning_rlhf.constitution.verdicts import FeedbackReport, Verdict
from lightning_rlhf.text.messages import checked_prompt


class Bin(NamedTuple):
    """Verdicts of similar confidence."""

    low: float
    high: float
    rows: int
    confidence: float  # mean max(p, 1 - p)
    accuracy: float  # share that agree with people


class JudgeReport(NamedTuple):
    """Agreement of a judge with people."""

    rows: int  # on which people prefer one answer
    decided: int
    accuracy: float | None  # of the decided ones
    interval: tuple[float, float]  # 95 %, Wilson
    accuracy_all: float | None  # undecided ones count a half
    consistency: float | None  # share of pairs not decided by the position
    agreement: float | None  # with one person, drawn from those who labeled the row
    kappa: float | None  # Cohen's, of the decided ones: agreement beyond chance
    bins: tuple[Bin, ...]
    ece: float | None  # mean |confidence - accuracy| over verdicts, by bins
    feedback: FeedbackReport
    verdicts: tuple[Verdict, ...]

    def to_row(self) -> dict[str, Any]:
        """Turn the figures, without the verdicts, into a plain dict for JSON."""
        row = {**self._asdict(), "bins": [b._asdict() for b in self.bins]}
        del row["verdicts"]
        return {**row, "feedback": self.feedback._asdict()}

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"the judge decides none of {self.rows:,} pairs: {self.feedback}"
        low, high = self.interval
        parts = [
            f"the judge agrees with people in {self.accuracy:.1%} of {self.decided:,} decided "
            f"pairs (95 %: {low:.1%} to {high:.1%})",
            f"{self.accuracy_all:.1%} of {self.rows:,} with undecided ones as a half",
        ]
        if self.consistency is not None:
            parts.append(f"both orders got the same answer in {self.consistency:.1%}")
        parts.append(f"calibration error {self.ece:.3f}")
        if low <= 0.5:
            parts.append("it may be no better than chance: do not train on its labels")
        return "; ".join(parts)


def judge_eval(
    judge: Generator, feedback: AIFeedback, rows: Sequence[dict[str, Any]], bins: int = 5
) -> JudgeReport:
    """Compare a judge's labels with those of people.

    Args:
        judge: the model to evaluate.
        feedback: how it is asked.
        rows: ``{"prompt", "chosen", "rejected"}`` with a soft ``"label"`` where people differed,
            or ``{"prompt", "first", "second", "human"}``, the share that preferred the first.
        bins: of confidence, from 0.5 to 1.
    """
    pairs = [_pair(row, number, feedback.seed) for number, row in enumerate(rows, 1)]
    verdicts = feedback.label(judge, pairs)
    preferred = [(v, v.extra["human"]) for v in verdicts if v.extra["human"] != 0.5]
    # for each decided pair: does the judge, do people, prefer the first answer?
    decided = [(v.p > 0.5, human > 0.5) for v, human in preferred if v.status == "decided"]
    right = sum(judged == human for judged, human in decided)
    report = feedback.report(verdicts)
    table = calibration([(v.raw, human > 0.5) for v, human in preferred if v.raw is not None], bins)
    undecided = len(preferred) - len(decided)
    return JudgeReport(
        rows=len(preferred),
        decided=len(decided),
        accuracy=right / len(decided) if decided else None,
        interval=wilson(right, len(decided)),
        accuracy_all=(right + undecided / 2) / len(preferred) if preferred else None,
        consistency=None if report.position_bias is None else 1 - report.position_bias,
        agreement=_mean([_agreement(v, human) for v, human in preferred]),
        kappa=_kappa(decided),
        bins=table,
        ece=_calibration_error(table),
        feedback=report,
        verdicts=tuple(verdicts),
    )


def wilson(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Compute the Wilson score interval of a share (1927); (0, 1) where nothing was counted."""
    if of == 0:
        return 0.0, 1.0
    share, room = right / of, z * z / of
    middle = (share + room / 2) / (1 + room)
    half = z * math.sqrt(share * (1 - share) / of + room / (4 * of)) / (1 + room)
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration(predictions: Sequence[tuple[float, bool]], bins: int) -> tuple[Bin, ...]:
    """Compare confidence with accuracy, whichever answer is called the first.

    Args:
        predictions: the probability that the first answer is better, and True if people thought
            so. A probability of exactly 0.5 is right in half of all cases.
        bins: of equal width from 0.5 to 1; empty ones are left out.
    """
    cases: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for p, first in predictions:
        confidence = max(p, 1 - p)
        right = 0.5 if p == 0.5 else float((p > 0.5) == first)
        cases[min(bins - 1, int((confidence - 0.5) * 2 * bins))].append((confidence, right))
    width = 0.5 / bins
    return tuple(
        Bin(
            low=0.5 + i * width,
            high=0.5 + (i + 1) * width,
            rows=len(each),
            confidence=sum(c for c, _ in each) / len(each),
            accuracy=sum(r for _, r in each) / len(each),
        )
        for i, each in enumerate(cases)
        if each
    )


def _calibration_error(bins: Sequence[Bin]) -> float | None:
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.confidence - b.accuracy) for b in bins) / rows if rows else None


def _pair(row: dict[str, Any], number: int, seed: int) -> dict[str, Any]:
    """Turn a row into a pair whose better answer comes first in half of all rows, by the seed."""
    if "human" in row:
        return {**row, "human": _share(row["human"], f"row {number}: human")}
    try:
        sides, prompt = (row["chosen"], row["rejected"]), checked_prompt(row, f"row {number}")
    except KeyError as error:
        raise ValueError(
            f"row {number} lacks {error}: give prompt, chosen, rejected, or first, second, human"
        ) from error
    label = row.get("label")
    human = 1.0 if label is None else _share(label, f"row {number}: label")
    id = str(row.get("id") or row_id(prompt, *sides))
    if share_of(seed, id, "side") < 0.5:
        sides, human = sides[::-1], 1 - human
    return {"id": id, "prompt": prompt, "first": sides[0], "second": sides[1], "human": human}


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{where} is {value!r}: it must be a share from 0 to 1")
    return float(value)


def _agreement(verdict: Verdict, human: float) -> float:
    if verdict.status != "decided":
        return 0.5
    return human if verdict.p > 0.5 else 1 - human


def _kappa(decided: Sequence[tuple[bool, bool]]) -> float | None:
    """Compute Cohen's kappa of two raters; None where chance alone would agree."""
    if not decided:
        return None
    n = len(decided)
    observed = sum(a == b for a, b in decided) / n
    a, b = (sum(pair[i] for pair in decided) / n for i in (0, 1))
    chance = a * b + (1 - a) * (1 - b)
    return None if chance == 1 else (observed - chance) / (1 - chance)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
