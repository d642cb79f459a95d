"""Diagnostics of a rollout: diversity of the completions, and how well the critic predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def distinct_n(completions: Sequence[Sequence[int]], n: int) -> float:
    """Number of different n-grams over the number of n-grams (Li et al. 2016, 1510.03055).

    Args:
        completions: token ids; an n-gram lies within one completion.
        n: tokens in an n-gram, at least 1.

    Returns:
        0..1; 0 where no completion has n tokens.
    """
    if n < 1:
        raise ValueError(f"an n-gram has {n} tokens: give n of at least 1")
    grams = [tuple(ids[i : i + n]) for ids in completions for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """``1 - Var(R - V) / Var(R)``: 1 for a perfect critic, 0 for a constant, less for a worse one.

    Where the returns do not vary, there is nothing to explain: the result is 1 if the values differ
    from them by a constant, else 0. So it is a number for all finite input.

    Args:
        values: (N,) the critic's V of the tokens under the loss mask.
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
