"""Stretches of a run's figures, compared with what they do by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median, variance
from typing import NamedTuple

Row = dict[str, float]  # one rollout's figures, by their names in the log
History = Sequence[Row]  # oldest first
NORMAL_MEDIAN = 0.6745  # of |x| where x is normal with deviation 1
APART = 5.0  # standard errors; many, since a run is looked at after each rollout, in many ways


class Stretch(NamedTuple):
    """Some rollouts' values of one figure."""

    mean: float
    error: float  # standard error of the mean


def stretch(values: Sequence[float]) -> Stretch:
    return Stretch(fmean(values), math.sqrt(variance(values) / len(values)))


def series(history: History, name: str) -> list[float]:
    """A figure's finite values."""
    return [row[name] for row in history if math.isfinite(row.get(name, math.nan))]


def ends(history: History, name: str, window: int) -> tuple[Stretch, Stretch] | None:
    """A figure over the first rollouts and over the last ones; None while they overlap."""
    values = series(history, name)
    if len(values) < 2 * window:
        return None
    return stretch(values[:window]), stretch(values[-window:])


def rose(before: Stretch, after: Stretch) -> bool:
    return after.mean - before.mean > APART * math.hypot(before.error, after.error)


def noise(values: Sequence[float]) -> float:
    """Standard deviation of one value by chance, from the median step: a trend, or one fall, does
    not count."""
    steps = [abs(b - a) for a, b in pairwise(values)]
    return median(steps) / (NORMAL_MEDIAN * math.sqrt(2))


def mean_of_last(history: History, name: str, count: int) -> float:
    """NaN while there are fewer."""
    values = series(history, name)
    return fmean(values[-count:]) if len(values) >= count else math.nan
