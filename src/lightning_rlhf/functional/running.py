"""Figures that a run carries along: moments, an adaptive KL coefficient, and two diagnostics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class RunningMoments:
    """Mean and variance of all values seen, in float64 and one pass (Chan, Golub & LeVeque 1979).

    Any order and any cut into batches gives the same moments, to rounding. Across processes, gather
    the values before ``update``, or ``merge`` each process's moments.
    """

    def __init__(self, count: float = 0.0, mean: float = 0.0, m2: float = 0.0):
        self.count = count
        self.mean = mean
        self.m2 = m2  # sum of squared deviations from the mean

    def update(self, values: Tensor) -> None:
        """See a batch: any shape, every entry counts."""
        values = values.detach().double()
        if values.numel():
            mean = values.mean()
            m2 = (values - mean).square().sum()
            self.merge(float(values.numel()), mean.item(), m2.item())

    def merge(self, count: float, mean: float, m2: float) -> None:
        """See another set of values by its moments: the pairwise update, Eq. 2.1 there."""
        total = self.count + count
        if total:
            delta = mean - self.mean
            self.mean += delta * count / total
            self.m2 += m2 + delta * delta * self.count * count / total
            self.count = total

    @property
    def variance(self) -> float:
        """Unbiased; 0 of fewer than two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else 0.0

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, as a checkpoint wants them."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.m2 = (float(state[k]) for k in ("count", "mean", "m2"))


class AdaptiveKL:
    """A KL coefficient that steers the measured KL to a target (Ziegler et al. 2019, 1909.08593).

    Section 2.2 there: ``e = clip((KL - target) / target, -0.2, 0.2)``, then
    ``coef *= 1 + e n / horizon`` (their K_beta of 0.1 is n / horizon).

    Args:
        target: KL to hold, nats per completion.
        horizon: completions after which a full error has moved the coefficient by a fifth.
        coef: where the coefficient begins.
    """

    def __init__(self, target: float, horizon: float = 10_000, coef: float = 0.05):
        for name, value in (("target", target), ("horizon", horizon), ("coef", coef)):
            if not value > 0:
                raise ValueError(f"{name} of an adaptive KL coefficient is above 0, not {value}")
        self.target = target
        self.horizon = horizon
        self.coef = coef

    def update(self, kl: float, n: int) -> None:
        """Having measured ``kl`` over ``n`` completions; a KL that is no number moves nothing.

        More completions at once than ``horizon`` count as that many: the coefficient stays above 0.
        """
        if not math.isnan(kl):
            error = min(max((kl - self.target) / self.target, -0.2), 0.2)
            self.coef *= 1 + error * min(n / self.horizon, 1.0)

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coef = float(state["coef"])


def distinct_n(completions: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all completions (Li et al. 2016, 1510.03055).

    Args:
        completions: token ids; no n-gram spans two of them.
        n: tokens in an n-gram, at least 1.

    Returns:
        0..1; 0 where no completion has n tokens.
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least 1 token, not {n}")
    grams = [tuple(ids[i : i + n]) for ids in completions for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """``1 - Var(R - V) / Var(R)``: 1 of a perfect critic, 0 of a constant, less of a worse one.

    Where the returns do not vary there is nothing to explain: 1 if the values do not miss them by
    more than a constant, else 0; so it is a number for all finite input.

    Args:
        values: (N,) the critic's V of the tokens that count.
        returns: (N,) their R.

    Returns:
        () fp32, without gradient.
    """
    values, returns = values.detach().double(), returns.detach().double()
    if not returns.numel():
        return torch.zeros((), device=returns.device)
    missed = (returns - values).var(correction=0)
    spread = returns.var(correction=0)
    rounding = 1e-14 * returns.square().mean()  # of an fp32 mean, squared
    if spread <= rounding:
        return (missed <= rounding).float()
    return (1 - missed / spread).float()
