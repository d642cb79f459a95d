"""Reward modeling: losses of completions' scalar scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rlhf.functional.loss import Loss


def reward_loss(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    label: Tensor | None = None,
    centering: float = 0.0,
) -> Loss:
    """Bradley-Terry on scalar rewards, with margin, soft labels and centering.

    ``BCE(s(x), p) + c (r_c + r_r)^2`` with ``x = r_c - r_r - m``; for certain labels (p = 1) that
    is ``-ls(x)``. Margin: Llama 2 (arXiv 2307.09288, Eq. 2). Centering: arXiv 2312.09244.

    Args:
        chosen, rejected: (P,) rewards.
        margin: (P,) by how much the chosen side is better, or None for 0.
        label: (P,) probability that "chosen" is the better side, or None for 1.
        centering: weight of the pull of ``r_c + r_r`` to 0.
    """
    logits = chosen - rejected if margin is None else chosen - rejected - margin
    target = torch.ones_like(logits) if label is None else label
    value = F.binary_cross_entropy_with_logits(logits, target)
    if centering:
        value = value + centering * (chosen + rejected).square().mean()
    return Loss(value, score_metrics(chosen, rejected))


def score_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Mean (P,) rewards and accuracy over pairs; a tie counts as wrong."""
    chosen, rejected = chosen.detach(), rejected.detach()
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),
        "rewards/margins": (chosen - rejected).mean(),
    }


def ordered_pairs(group: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Every strictly ordered pair of completions of one prompt.

    Args:
        group: (C,) the prompt of each completion.
        rank: (C,) lower is better, equal is a tie.

    Returns:
        (Q,), (Q,): indices of the better and of the worse completion.
    """
    better = (group[:, None] == group[None, :]) & (rank[:, None] < rank[None, :])
    winner, loser = better.nonzero(as_tuple=True)
    return winner, loser


def ranking_loss(scores: Tensor, group: Tensor, rank: Tensor) -> Loss:
    """All strictly ordered pairs of each prompt's K completions: mean over them, then prompts.

    InstructGPT (arXiv 2203.02155, Eq. 1): the pairs of one prompt are one batch element, since seen
    one by one they overfit. A prompt whose completions all tie is left out of the mean.

    Args:
        scores: (C,) rewards of all completions of the batch.
        group: (C,) the prompt of each, in 0..G-1; may lie on the host, as may ``rank``.
        rank: (C,) lower is better, equal is a tie.
    """
    winner, loser = ordered_pairs(group, rank)
    pair_group = group[winner]
    groups = int(group.max()) + 1
    pairs = torch.bincount(pair_group, minlength=groups).to(scores.dtype)
    weight = (1.0 / pairs[pair_group] / (pairs > 0).sum()).to(scores.device)
    nll = -F.logsigmoid(scores[winner] - scores[loser])
    metrics, counts = _ordered_metrics(scores, winner, loser)
    return Loss((weight * nll).sum(), metrics, weight=float((pairs > 0).sum()), weights=counts)


def plackett_luce_loss(scores: Tensor, group: Tensor, rank: Tensor) -> Loss:
    """``-sum_k [r_(k) - logsumexp(r_(k..K))]``, mean over prompts; Bradley-Terry at K = 2.

    Ties break by Breslow's rule: tied completions share the denominator of their first. The last
    place of a prompt is certain and adds 0.

    Args: as ``ranking_loss``.
    """
    # row i: the completions of i's prompt that are not better than i
    field = (group[:, None] == group[None, :]) & (rank[None, :] >= rank[:, None])
    denominator = scores[None, :].masked_fill(~field.to(scores.device), float("-inf")).logsumexp(-1)
    groups = int(group.max()) + 1
    winner, loser = ordered_pairs(group, rank)
    metrics, counts = _ordered_metrics(scores, winner, loser)
    return Loss((denominator - scores).sum() / groups, metrics, weight=groups, weights=counts)


def rating_loss(scores: Tensor, rating: Tensor) -> Loss:
    """Mean squared error of (C,) scores to (C,) ratings (HelpSteer 2, arXiv 2406.08673)."""
    error = (scores - rating).square().mean()
    return Loss(error, {"rewards/mean": scores.detach().mean()}, weight=len(scores))


def _ordered_metrics(
    scores: Tensor, winner: Tensor, loser: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Metrics over ordered pairs, and the number of pairs behind each."""
    metrics = score_metrics(scores[winner], scores[loser])
    return metrics, dict.fromkeys(metrics, len(winner))
