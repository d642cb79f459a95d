"""Proximal policy optimization (arXiv 1707.06347): clipped ratios, clipped values, KL in rewards.

Flat (N,) tensors hold one entry per token under the loss mask, (V,) tensors one per position where
the critic is read. Rows (C, L) are padded on the right.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_rlhf.functional.loss import Loss

KLEstimator = Literal["k1", "k3"]


def token_kl(logprobs: Tensor, reference: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Estimate ``KL(policy || reference)`` from the policy's own samples, per token.

    k1, ``log p - log q``, is unbiased and may be negative. k3, ``q/p - 1 - log(q/p)``, is unbiased
    too, never negative, and has less variance.

    Args:
        logprobs: of the policy that sampled, any shape.
        reference: log-probs of the reference.
        estimator: "k1" or "k3".
    """
    if estimator == "k1":
        return logprobs - reference
    gap = reference - logprobs
    return gap.expm1() - gap


def token_rewards(kl: Tensor, scores: Tensor, column: Tensor, kl_coef: float) -> Tensor:
    """``r_t = -kl_coef kl_t``, plus the score at one position of each row.

    Args:
        kl: (C, L), 0 after a row's end.
        scores: (C,).
        column: (C,) position of the score.
        kl_coef: the KL coefficient.
    """
    rewards = -kl_coef * kl
    return rewards.scatter_add(1, column[:, None], scores[:, None])


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, clip: float, dual_clip: float | None = None
) -> Loss:
    """``max(-A r, -A clip(r, 1 - e, 1 + e))``, r the ratio of new to old (Eq. 7), mean over tokens.

    Args:
        logprobs: (N,) of the policy in training.
        old: (N,) of the policy that sampled.
        advantages: (N,).
        clip: e.
        dual_clip: bound of ``-A r`` where A < 0, above 1 (arXiv 1912.09729, Eq. 5); None: none.
    """
    gap = logprobs - old
    ratio = gap.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(plain, clipped)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    gap, ratio = gap.detach(), ratio.detach()
    metrics = {
        "policy/loss": loss.detach().mean(),
        "policy/approxkl": 0.5 * gap.square().mean(),
        "policy/clipfrac": (clipped > plain).float().mean(),
        "policy/ratio": ratio.mean(),
        "policy/ratio_var": ratio.var(unbiased=False),
        "policy/ratio_error": (ratio - 1).abs().max(),
    }
    return Loss(loss.mean(), metrics, len(loss), dict.fromkeys(metrics, len(loss)))


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Loss:
    """``1/2 max((V - R)^2, (V_clip - R)^2)``, V_clip within ``clip`` of the old value; mean.

    Args:
        values: (V,) of the critic in training.
        old: (V,) at the time of the rollout.
        returns: (V,).
        clip: how far a value may move and still lower the loss.
    """
    near = old + (values - old).clamp(-clip, clip)
    plain, clipped = (values - returns).square(), (near - returns).square()
    loss = 0.5 * torch.maximum(plain, clipped).mean()
    metrics = {"value/loss": loss.detach(), "value/clipfrac": (clipped > plain).float().mean()}
    return Loss(loss, metrics, len(values), dict.fromkeys(metrics, len(values)))


def ppo_loss(policy: Loss, value: Loss, value_coef: float) -> Loss:
    """``policy + value_coef value`` (Eq. 9 without its entropy bonus)."""
    return Loss(
        policy.value + value_coef * value.value,
        policy.metrics | value.metrics,
        policy.weight,
        {**policy.weights, **value.weights},
    )
