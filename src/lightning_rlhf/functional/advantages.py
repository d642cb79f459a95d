"""Advantages: how much better than expected a token, or a whole completion, turned out.

Rows of C completions are padded on the right with zeros to L tokens; a mask is True where a token
counts. ``group`` names the prompt of each completion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_rlhf.functional.masking import segment_lengths, segment_sum

Estimator = Callable[[Tensor, Tensor], Tensor]  # scores (C,), group (C,) -> advantages (C,)


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (arXiv 1506.02438, Eq. 16), from the last token back.

    ``d_t = r_t + gamma V_{t+1} - V_t`` and ``A_t = d_t + gamma lam A_{t+1}``; nothing follows the
    end. Zeros after a row's end stay zeros, so no mask is needed.

    Args:
        rewards: (C, L).
        values: (C, L).
        gamma: discount of a token.
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


def masked_normalize(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Mean 0 and (unbiased) variance 1 over what counts; 0 elsewhere."""
    kept = values[mask]
    if len(kept) < 2:
        return torch.zeros_like(values)
    return ((values - kept.mean()) * torch.rsqrt(kept.var() + eps)).masked_fill(~mask, 0.0)


def masked_rescale(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Variance 1 about the mean over what counts, the mean left where it is; 0 elsewhere."""
    kept = values[mask]
    if len(kept) < 2:
        return values.masked_fill(~mask, 0.0)
    mean = kept.mean()
    scaled = (values - mean) * torch.rsqrt(kept.var() + eps) + mean
    return scaled.masked_fill(~mask, 0.0)


def rloo_advantages(scores: Tensor, group: Tensor) -> Tensor:
    """``A_i = R_i - mean_{j != i} R_j`` over the completions of a prompt (arXiv 2402.14740, Eq. 8).

    A completion that has no sibling has nothing to be compared with: 0.
    """
    total, n = _of_group(scores, group)
    return torch.where(n > 1, scores - (total - scores) / (n - 1).clamp(min=1), 0.0)


def grpo_advantages(scores: Tensor, group: Tensor, eps: float = 1e-4) -> Tensor:
    """``A_i = (R_i - mean R) / std R`` over a prompt's completions (arXiv 2402.03300, Sec. 4.1.2).

    The deviation is the unbiased one.
    """
    total, n = _of_group(scores, group)
    centred = scores - total / n
    squares, _ = _of_group(centred.square(), group)
    return centred / ((squares / (n - 1).clamp(min=1)).sqrt() + eps)


def dr_grpo_advantages(scores: Tensor, group: Tensor) -> Tensor:
    """``A_i = R_i - mean R``: no division, which favours prompts of little spread (2503.20783)."""
    total, n = _of_group(scores, group)
    return scores - total / n


def reinforce_pp_advantages(scores: Tensor, group: Tensor, eps: float = 1e-8) -> Tensor:
    """Centred on the prompt, then normalised over the whole batch (REINFORCE++, arXiv 2501.03262).

    With one completion to a prompt there is nothing to centre on but the batch.
    """
    total, n = _of_group(scores, group)
    centred = torch.where(n > 1, scores - total / n, scores)
    return masked_normalize(centred, torch.ones_like(centred, dtype=torch.bool), eps)


def _of_group(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Each completion's group: its sum and size, both (C,)."""
    groups = int(group.max()) + 1
    return (
        segment_sum(values, group, groups)[group],
        segment_lengths(group, groups)[group].to(values.dtype),
    )
