"""Compare stretches of a run's figures, with their noise taken into account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median, variance
from typing import NamedTuple

Row = dict[str, float]  # the figures of one rollout, by metric name
History = Sequence[Row]  # oldest first
NORMAL_MEDIAN = 0.6745  # of |x| if x is normal with deviation 1
APART = 5.0  # standard errors; many, because each rollout is tested, in many ways


class Stretch(NamedTuple):
    """The mean of a figure over some rollouts."""

    mean: float
    error: float  # standard error of the mean


def stretch(values: Sequence[float]) -> Stretch:
    return Stretch(fmean(values), math.sqrt(variance(values) / len(values)))


def series(history: History, name: str) -> list[float]:
    """The finite values of a figure."""
    return [row[name] for row in history if math.isfinite(row.get(name, math.nan))]


def ends(history: History, name: str, window: int) -> tuple[Stretch, Stretch] | None:
    """Return a figure over the first rollouts and over the last; None while they overlap."""
    values = series(history, name)
    if len(values) < 2 * window:
        return None
    return stretch(values[:window]), stretch(values[-window:])


def rose(before: Stretch, after: Stretch) -> bool:
    return after.mean - before.mean > APART * math.hypot(before.error, after.error)


def noise(values: Sequence[float]) -> float:
    """Estimate the standard deviation of one value from the median step: ignores a trend."""
    steps = [abs(b - a) for a, b in pairwise(values)]
    return median(steps) / (NORMAL_MEDIAN * math.sqrt(2))


def mean_of_last(history: History, name: str, count: int) -> float:
    """Average the last values; NaN while there are fewer."""
    values = series(history, name)
    return fmean(values[-count:]) if len(values) >= count else math.nan
