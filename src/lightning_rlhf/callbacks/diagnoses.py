"""Diagnoses of an online run: each illness is a function of the run's history.

A history is one row of figures per rollout, oldest first. A diagnosis returns one sentence; None if
there is no illness or not enough data. Chance is not an illness: two stretches differ if they are
``APART`` standard errors apart *and* by enough to matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from lightning_rlhf.callbacks.history import (
    APART,
    History,
    ends,
    mean_of_last,
    noise,
    rose,
    series,
    stretch,
)

KL, SCORE, SPREAD = "objective/kl", "objective/scores", "objective/score_std"
LENGTH, EOS, DISTINCT = "completions/mean_length", "completions/eos_share", "completions/distinct_2"
RATIO, CLIPPED, MOVED = "policy/first_ratio_error", "policy/clipfrac", "policy/approxkl"
EXPLAINED = "value/explained_variance"
NAMES = (KL, SCORE, SPREAD, LENGTH, EOS, DISTINCT, RATIO, CLIPPED, MOVED, EXPLAINED)


class Limits(NamedTuple):
    """The limits beyond which a figure is an illness."""

    window: int = 10  # rollouts in each stretch
    kl_budget: float | None = 50.0  # nats per completion
    watch: str | None = None  # a held-out figure, higher is better
    ratio_tolerance: float = 1e-4
    max_clipfrac: float = 0.3
    max_approxkl: float = 0.1
    length_factor: float = 1.5


Find = Callable[[History, Limits], str | None]


def not_finite(history: History, limits: Limits) -> str | None:
    broken = [n for n in (SCORE, KL, MOVED) if not math.isfinite(history[-1].get(n, 0.0))]
    return f"{broken[0]} is {history[-1][broken[0]]}" if broken else None


def negative_kl(history: History, limits: Limits) -> str | None:
    values = series(history, KL)[-limits.window :]
    if len(values) < limits.window:
        return None
    kl = stretch(values)
    if kl.mean > -0.05 or kl.mean > -APART * kl.error:
        return None
    return (
        f"the mean KL was {kl.mean:.3g} nats per completion over the last {limits.window} rollouts,"
        " and no KL is below 0"
    )


def first_ratio(history: History, limits: Limits) -> str | None:
    error = history[-1].get(RATIO, 0.0)
    if not error > limits.ratio_tolerance:
        return None
    return (
        f"at a rollout's first update a probability ratio is off 1 by {error:.3g},"
        f" more than {limits.ratio_tolerance:g}"
    )


def eos_falling(history: History, limits: Limits) -> str | None:
    found = ends(history, EOS, limits.window)
    if found is None or found[0].mean - found[1].mean < 0.1 or not rose(found[1], found[0]):
        return None
    return f"{found[1].mean:.0%} of the completions end by themselves; at first {found[0].mean:.0%}"


def length_drifting(history: History, limits: Limits) -> str | None:
    found = ends(history, LENGTH, limits.window)
    if found is None:
        return None
    first, last = found
    longer = last.mean > limits.length_factor * first.mean and rose(first, last)
    shorter = last.mean * limits.length_factor < first.mean and rose(last, first)
    if not (longer or shorter):
        return None
    return f"completions have {last.mean:.3g} tokens on average; at first {first.mean:.3g}"


def critic_useless(history: History, limits: Limits) -> str | None:
    values = series(history, EXPLAINED)
    if len(values) < 3 * limits.window:  # a new critic may be wrong for a while
        return None
    explained = stretch(values[-2 * limits.window :])
    if explained.mean + APART * explained.error > -0.02:
        return None
    return (
        f"the critic's explained variance was {explained.mean:.2f} on average over the last"
        f" {2 * limits.window} rollouts: a constant would predict the returns better"
    )


def clipping(history: History, limits: Limits) -> str | None:
    share = mean_of_last(history, CLIPPED, 3)
    if not share > limits.max_clipfrac:
        return None
    return f"{share:.0%} of the tokens were clipped in the last three rollouts' updates"


def update_too_large(history: History, limits: Limits) -> str | None:
    moved = mean_of_last(history, MOVED, 3)
    if not moved > limits.max_approxkl:
        return None
    return f"updates move the policy by {moved:.3g} nats per token from the one that sampled"


def kl_over_budget(history: History, limits: Limits) -> str | None:
    kl = mean_of_last(history, KL, 5)
    if limits.kl_budget is None or not kl > limits.kl_budget:
        return None
    return (
        f"the policy is {kl:.3g} nats per completion from its reference, the budget is"
        f" {limits.kl_budget:g}"
    )


def reward_saturating(history: History, limits: Limits) -> str | None:
    score, spread = (ends(history, name, limits.window) for name in (SCORE, SPREAD))
    if score is None or spread is None or not rose(*score):
        return None
    if spread[1].mean > 0.1 * spread[0].mean:
        return None
    return (
        f"the score rose from {score[0].mean:.3g} to {score[1].mean:.3g} and its spread fell from"
        f" {spread[0].mean:.3g} to {spread[1].mean:.3g}: completions no longer differ in reward"
    )


def reward_hacking(history: History, limits: Limits) -> str | None:
    score = ends(history, SCORE, limits.window)
    if score is None or not rose(*score):
        return None
    evidence = []
    distinct = ends(history, DISTINCT, limits.window)
    if distinct and distinct[1].mean < 0.7 * distinct[0].mean and rose(distinct[1], distinct[0]):
        evidence.append(
            f"the share of different word pairs fell from {distinct[0].mean:.2g}"
            f" to {distinct[1].mean:.2g}"
        )
    if drift := length_drifting(history, limits):
        evidence.append(drift)
    if fall := _watched_fall(history, limits):
        evidence.append(fall)
    if not evidence:
        return None
    grew = f"the score rose from {score[0].mean:.3g} to {score[1].mean:.3g}"
    return f"{grew} while {', and '.join(evidence)}"


def _watched_fall(history: History, limits: Limits) -> str | None:
    """Compare the last five measurements of the held-out figure with the best two in a row before.

    The score must have risen between the two. A policy can be ruined within a few rollouts, so the
    best is only two measurements long. The noise of a figure is estimated from its steps.
    """
    if limits.watch is None:
        return None
    watch = limits.watch
    rows = [
        row for row in history if all(math.isfinite(row.get(n, math.nan)) for n in (watch, SCORE))
    ]
    measured = [row for before, row in pairwise([{}, *rows]) if before.get(watch) != row[watch]]
    held, score = series(measured, watch), series(measured, SCORE)
    if len(held) < 8:
        return None
    best = max(range(len(held) - 6), key=lambda i: fmean(held[i : i + 2]))
    then, now = slice(best, best + 2), slice(-5, None)
    top, last = fmean(held[then]), fmean(held[now])
    apart = APART * math.sqrt(1 / 2 + 1 / 5)
    fell = top - last > max(0.02 * abs(top), apart * noise(held))
    if not fell or not fmean(score[now]) - fmean(score[then]) > apart * noise(score):
        return None
    return f"{watch} fell from its best {top:.3g} to {last:.3g}"


class Diagnosis(NamedTuple):
    """A test for an illness, and its advice."""

    find: Find
    advice: str  # what to do


DIAGNOSES = {
    "not_finite": Diagnosis(
        not_finite,
        "Go back to the last checkpoint; lower the learning rate, set gradient_clip_val, look at"
        " the last rollout's rewards.",
    ),
    "negative_kl": Diagnosis(
        negative_kl,
        "Sampler and trainer disagree. Check: top_p 1, top_k 0, no minimum length; one temperature"
        " for sampling, policy and reference; dropout off; masks that end at the first EOS; no LoRA"
        " merged into 4-bit weights; the reference is the policy as it began.",
    ),
    "first_ratio": Diagnosis(
        first_ratio,
        "Old log-probs and the first update come from different computations: check dropout, the"
        " temperature, the adapter in use, and whether old log-probs were taken from the sampler.",
    ),
    "eos_falling": Diagnosis(
        eos_falling,
        "The policy learns not to stop. Raise the no-EOS penalty, check that EOS is in the"
        " completion mask (pad = eos) and that the reward reads the cut text; or allow"
        " longer completions.",
    ),
    "length_drifting": Diagnosis(
        length_drifting,
        "The reward may pay for length. Compare its scores at like lengths, raise kl_coef, or"
        " penalize length; fine if the task asks for it.",
    ),
    "critic_useless": Diagnosis(
        critic_useless,
        "Advantages are noise. Raise the critic's learning rate or its warm-up, start it from the"
        " reward adapter, normalize rewards; or take RLOO or GRPO, which need no critic.",
    ),
    "clipping": Diagnosis(
        clipping,
        "Updates are too large: lower the learning rate or the epochs per rollout.",
    ),
    "update_too_large": Diagnosis(
        update_too_large,
        "Lower the learning rate or the epochs per rollout, or end an update early at a target KL.",
    ),
    "kl_over_budget": Diagnosis(
        kl_over_budget,
        "Raise kl_coef, or let an adaptive coefficient hold a target; an earlier checkpoint may be"
        " the better model.",
    ),
    "reward_saturating": Diagnosis(
        reward_saturating,
        "Nothing is left to learn from this reward: stop, take harder prompts, or look for a reward"
        " that is capped or gamed.",
    ),
    "reward_hacking": Diagnosis(
        reward_hacking,
        "Read rollouts.jsonl: the policy may have found what the reward overrates. Stop at the"
        " checkpoint where the held-out figure was best, raise kl_coef, or fix the reward.",
    ),
}
