"""Reward shaping: from raw scores to the reward that is maximized, and the state it needs."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from lightning_rlhf.functional.ppo import KLEstimator


@dataclass(frozen=True)
class Shaping:
    """How scores become the reward that is maximized.

    Attributes:
        kl_coef: weight of the KL to the reference.
        kl_target: KL that an adaptive coefficient holds, nats per completion; None keeps the
            coefficient fixed.
        kl_horizon: number of completions after which a full error has moved the coefficient by a
            fifth.
        kl_estimator: "k1" is unbiased in gradient where the KL is part of a reward; "k3" is never
            negative.
        missing_eos_penalty: subtracted from the score of a completion that did not end.
        center: subtract the mean score of the first rollout, which the reference wrote.
        normalize: divide scores by their running standard deviation.
        clip: bound of the absolute score after that; None: none.
    """

    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: float = 10_000
    _: KW_ONLY
    kl_estimator: KLEstimator = "k1"
    missing_eos_penalty: float = 1.0
    center: bool = False
    normalize: bool = False
    clip: float | None = None


class RewardShaper:
    """Shape the scores of one rollout after another.

    Each process shapes its own scores, by moments of the scores of all processes.

    Args:
        shaping: what to apply.
    """

    def __init__(self, shaping: Shaping):
        self.shaping = shaping
        self.moments = RunningMoments()  # of all scores so far
        self.center: float | None = None  # mean score of the first rollout
        self.kl = AdaptiveKL(shaping.kl_target or 1.0, shaping.kl_horizon, shaping.kl_coef or 1e-9)

    @property
    def kl_coef(self) -> float:
        """The KL coefficient now."""
        return self.kl.coef if self.shaping.kl_target is not None else self.shaping.kl_coef

    def shape(self, scores: Tensor, finished: Tensor, among: Tensor | None = None) -> Tensor:
        """Center, normalize and clip scores, then subtract the missing-EOS penalty.

        The KL is not subtracted here: each method puts it at its own place.

        Args:
            scores: (C,) of one rollout.
            finished: (C,) bool, False where a completion did not end.
            among: (M,) scores of all processes; None: ``scores`` are all.

        Returns:
            (C,).
        """
        shaping = self.shaping
        among = scores if among is None else among
        self.moments.update(among)
        if shaping.center:
            self.center = float(among.mean()) if self.center is None else self.center
            scores = scores - self.center
        if shaping.normalize:
            scores = scores / (self.moments.std + 1e-6)
        if shaping.clip is not None:
            scores = scores.clamp(-shaping.clip, shaping.clip)
        return scores - shaping.missing_eos_penalty * (~finished).float()

    def update_kl(self, kl: Tensor) -> None:
        """Steer an adaptive coefficient by the (M,) KL of all completions of a rollout."""
        if self.shaping.kl_target is not None:
            self.kl.update(float(kl.mean()), len(kl))

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {
            "moments": self.moments.state_dict(),
            "center": self.center,
            "kl": self.kl.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments.load_state_dict(state["moments"])
        self.center = state["center"]
        self.kl.load_state_dict(state["kl"])


class RunningMoments:
    """Mean and variance of all values so far, in float64 and one pass (Chan et al. 1979).

    Any order and any split into batches gives the same moments, to rounding. Across processes,
    gather the values before ``update``, or ``merge`` the moments of each process.
    """

    def __init__(self, count: float = 0.0, mean: float = 0.0, m2: float = 0.0):
        self.count = count
        self.mean = mean
        self.m2 = m2  # sum of squared deviations from the mean

    def update(self, values: Tensor) -> None:
        """Add every entry of a tensor of any shape."""
        values = values.detach().double()
        if values.numel():
            mean = values.mean()
            m2 = (values - mean).square().sum()
            self.merge(float(values.numel()), mean.item(), m2.item())

    def merge(self, count: float, mean: float, m2: float) -> None:
        """Add a set of values given by its moments (the pairwise update, Eq. 2.1 there)."""
        total = self.count + count
        if total:
            delta = mean - self.mean
            self.mean += delta * count / total
            self.m2 += m2 + delta * delta * self.count * count / total
            self.count = total

    @property
    def variance(self) -> float:
        """Unbiased variance; 0 for fewer than two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else 0.0

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, for a checkpoint."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.m2 = (float(state[k]) for k in ("count", "mean", "m2"))


class AdaptiveKL:
    """A KL coefficient that steers the measured KL to a target (Ziegler et al. 2019, 1909.08593).

    Section 2.2 there: ``e = clip((KL - target) / target, -0.2, 0.2)``, then
    ``coef *= 1 + e n / horizon`` (their K_beta of 0.1 is n / horizon).

    Args:
        target: KL to hold, nats per completion.
        horizon: number of completions after which a full error has moved the coefficient by a
            fifth.
        coef: the coefficient at the start.
    """

    def __init__(self, target: float, horizon: float = 10_000, coef: float = 0.05):
        for name, value in (("target", target), ("horizon", horizon), ("coef", coef)):
            if not value > 0:
                raise ValueError(
                    f"the {name} of an adaptive KL coefficient is {value}: give a number above 0"
                )
        self.target = target
        self.horizon = horizon
        self.coef = coef

    def update(self, kl: float, n: int) -> None:
        """Move the coefficient after ``kl`` was measured over ``n`` completions.

        A KL that is not a number moves nothing. More completions at once than ``horizon`` count as
        that many: the coefficient stays above 0.
        """
        if not math.isnan(kl):
            error = min(max((kl - self.target) / self.target, -0.2), 0.2)
            self.coef *= 1 + error * min(n / self.horizon, 1.0)

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coef = float(state["coef"])
