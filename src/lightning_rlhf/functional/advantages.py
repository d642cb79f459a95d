"""Advantages: how much better than expected a token, or a whole completion, turned out.

Rows of C completions are padded on the right with zeros to L tokens. A mask is True on tokens, and
False on padding. ``group`` holds the prompt of each completion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_rlhf.functional.masking import segment_lengths, segment_sum

Estimator = Callable[[Tensor, Tensor], Tensor]  # scores (C,), group (C,) -> advantages (C,)


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalized advantage estimation (arXiv 1506.02438, Eq. 16), from the last token back.

    ``d_t = r_t + gamma V_{t+1} - V_t`` and ``A_t = d_t + gamma lam A_{t+1}``; V and A are 0 after
    the end. Zeros after a row's end stay zeros, so no mask is needed.

    Args:
        rewards: (C, L).
        values: (C, L).
        gamma: discount per token.
        lam: 0 trusts the values (TD error), 1 the rewards (Monte Carlo).

    Returns:
        (C, L).
    """
    advantages = torch.zeros_like(rewards)
    following, carried = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        carried = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * carried
        following = values[:, t]
        advantages[:, t] = carried
    return advantages


def masked_normalize(
    values: Tensor, mask: Tensor, eps: float = 1e-8, *, among: Tensor | None = None
) -> Tensor:
    """Normalize to mean 0 and (unbiased) variance 1 under the mask; 0 elsewhere.

    Args:
        values: any shape.
        mask: of the same shape.
        eps: added to the variance.
        among: (M,) whose moments count, where the values are a part of them; None: the values.
    """
    kept = values[mask] if among is None else among
    if len(kept) < 2:
        return torch.zeros_like(values)
    return ((values - kept.mean()) * torch.rsqrt(kept.var() + eps)).masked_fill(~mask, 0.0)


def masked_rescale(
    values: Tensor, mask: Tensor, eps: float = 1e-8, *, among: Tensor | None = None
) -> Tensor:
    """Rescale to variance 1 under the mask, and keep the mean; 0 elsewhere.

    Args: as ``masked_normalize``.
    """
    kept = values[mask] if among is None else among
    if len(kept) < 2:
        return values.masked_fill(~mask, 0.0)
    mean = kept.mean()
    scaled = (values - mean) * torch.rsqrt(kept.var() + eps) + mean
    return scaled.masked_fill(~mask, 0.0)


def rloo_advantages(scores: Tensor, group: Tensor) -> Tensor:
    """``A_i = R_i - mean_{j != i} R_j`` over the completions of a prompt (arXiv 2402.14740, Eq. 8).

    A completion alone in its group has advantage 0.
    """
    total, n = _of_group(scores, group)
    return torch.where(n > 1, scores - (total - scores) / (n - 1).clamp(min=1), 0.0)


def grpo_advantages(scores: Tensor, group: Tensor, eps: float = 1e-4) -> Tensor:
    """``A_i = (R_i - mean R) / std R`` over a prompt's completions (arXiv 2402.03300, Sec. 4.1.2).

    The standard deviation is the unbiased one.
    """
    total, n = _of_group(scores, group)
    centered = scores - total / n
    squares, _ = _of_group(centered.square(), group)
    return centered / ((squares / (n - 1).clamp(min=1)).sqrt() + eps)


def dr_grpo_advantages(scores: Tensor, group: Tensor) -> Tensor:
    """``A_i = R_i - mean R``; dividing favors prompts of small spread (arXiv 2503.20783)."""
    total, n = _of_group(scores, group)
    return scores - total / n


def reinforce_pp_advantages(scores: Tensor, group: Tensor, eps: float = 1e-8) -> Tensor:
    """Center per prompt, then normalize over the whole batch (REINFORCE++, arXiv 2501.03262).

    A completion alone in its group is centered by the batch only.
    """
    total, n = _of_group(scores, group)
    centered = torch.where(n > 1, scores - total / n, scores)
    return masked_normalize(centered, torch.ones_like(centered, dtype=torch.bool), eps)


def _of_group(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the sum and the size of each completion's group, both (C,)."""
    groups = int(group.max()) + 1
    return (
        segment_sum(values, group, groups)[group],
        segment_lengths(group, groups)[group].to(values.dtype),
    )
