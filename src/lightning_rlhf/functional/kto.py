"""Losses of unpaired labels: every completion is good or bad by itself, there are no pairs.

Notation as in ``functional.dpo``: ``D = S - S_ref`` the log-ratio of a completion's summed
log-probs, ``b`` beta, ``s`` the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.processes import Processes


class UnpairedLogprobs(NamedTuple):
    """Inputs of an unpaired loss: C completions, each with its own label."""

    ratio: Tensor  # (C,) D
    label: Tensor  # (C,) probability that the completion is good
    baseline: Tensor  # () z0: an estimate of KL(policy || reference) in nats, without gradient


# (inputs, beta) -> (C,) loss if the completion is good, (C,) if it is bad
UnpairedLoss = Callable[[UnpairedLogprobs, float], tuple[Tensor, Tensor]]
L = TypeVar("L", bound=UnpairedLoss)


def without_baseline(loss: L) -> L:
    """Mark a loss without ``z0``: its module then computes no baseline."""
    loss.without_baseline = True  # type: ignore[attr-defined]
    return loss


def kto_loss(unpaired: UnpairedLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """KTO (arXiv 2402.01306, Eq. 8): ``1 - s(b(D - z0))`` if good, ``1 - s(b(z0 - D))`` if bad.

    The log-ratio is compared with ``z0``, the mean drift of the policy so far.
    """
    gain = beta * (unpaired.ratio - unpaired.baseline)
    return (-gain).sigmoid(), gain.sigmoid()


@without_baseline
def apo_zero_unpaired_loss(unpaired: UnpairedLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """APO-zero (arXiv 2408.06266) unpaired: ``1 - s(bD)`` if good, ``s(bD)`` if bad."""
    gain = beta * unpaired.ratio
    return (-gain).sigmoid(), gain.sigmoid()


def baseline(mismatched_ratio: Tensor, processes: Processes = Processes()) -> Tensor:
    """``z0 = max(0, mean D(x, y'))`` over completions of *other* prompts (Sec. 4.1).

    Args:
        mismatched_ratio: (M,) log-ratios; 0 for M = 0.
        processes: over all of which the mean is taken.
    """
    if processes.size == 1:
        if len(mismatched_ratio) == 0:
            return mismatched_ratio.new_zeros(())
        return mismatched_ratio.mean().clamp(min=0).detach()
    own = torch.stack([mismatched_ratio.sum(), mismatched_ratio.new_tensor(len(mismatched_ratio))])
    total, count = processes.stack(own).sum(0)
    return (total / count.clamp(min=1)).clamp(min=0)


def unpaired_loss(
    unpaired: UnpairedLogprobs,
    beta: float,
    loss: UnpairedLoss,
    up_weight: float = 1.0,
    down_weight: float = 1.0,
) -> Loss:
    """Mean over completions, ``w_up p l_up + w_down (1 - p) l_down``, and its metrics.

    Args:
        unpaired: C completions.
        beta: strength of the pull to the reference.
        loss: the loss of single completions.
        up_weight: lambda_D of the paper.
        down_weight: lambda_U; for n_up good and n_down bad rows keep ``n_up w_up`` within 1 to 4/3
            of ``n_down w_down``.
    """
    up, down = loss(unpaired, beta)
    value = up_weight * unpaired.label * up + down_weight * (1 - unpaired.label) * down
    metrics = unpaired_metrics(unpaired, beta)
    good = (unpaired.label > 0.5).float().sum()
    counts = {
        "rewards/chosen": good,
        "rewards/rejected": len(value) - good,
        "rewards/margins": good,
    }
    return Loss(value.mean(), metrics, weights={} if value.is_meta else counts)


@torch.no_grad()
def unpaired_metrics(unpaired: UnpairedLogprobs, beta: float) -> dict[str, Tensor]:
    """Implicit rewards ``b D`` of good and bad completions; a side without rows is left out.

    A plan of memory runs on meta tensors, where nothing tells which sides have rows.
    """
    if unpaired.ratio.is_meta:
        return {}
    reward, good = beta * unpaired.ratio, unpaired.label > 0.5
    agrees = (unpaired.ratio > unpaired.baseline) == good
    metrics = {"kl": unpaired.baseline, "rewards/accuracies": agrees.float().mean()}
    sides = {"rewards/chosen": reward[good], "rewards/rejected": reward[~good]}
    metrics |= {name: side.mean() for name, side in sides.items() if len(side)}
    if len(metrics) == 4:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics
