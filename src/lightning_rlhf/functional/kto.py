"""Learning from thumbs: one completion at a time, good or bad, and no pairs.

Notation as in ``dpo``: ``D = S - S_ref`` the log-ratio of a completion's summed log-probs, ``b``
beta, ``s`` the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_rlhf.functional.loss import Loss


class UnpairedLogprobs(NamedTuple):
    """What a loss may look at: C completions, each judged alone."""

    ratio: Tensor  # (C,) D
    label: Tensor  # (C,) probability that the completion is good: 1 a thumb up, 0 a thumb down
    baseline: Tensor  # () z0: an estimate of KL(policy || reference) in nats, without gradient


ThumbLoss = Callable[
    [UnpairedLogprobs, float], tuple[Tensor, Tensor]
]  # -> (C,) if up, (C,) if down
L = TypeVar("L", bound=ThumbLoss)


def without_baseline(loss: L) -> L:
    """Mark a loss that never looks at ``z0``: its module then computes none."""
    loss.without_baseline = True  # type: ignore[attr-defined]
    return loss


def kto_loss(thumbs: UnpairedLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """KTO (arXiv 2402.01306, Eq. 8): ``1 - s(b(D - z0))`` if up, ``1 - s(b(z0 - D))`` if down.

    A completion is gained or lost against ``z0``, what the policy has drifted already.
    """
    gain = beta * (thumbs.ratio - thumbs.baseline)
    return (-gain).sigmoid(), gain.sigmoid()


@without_baseline
def apo_zero_unpaired_loss(thumbs: UnpairedLogprobs, beta: float) -> tuple[Tensor, Tensor]:
    """APO-zero (arXiv 2408.06266) side by side: ``1 - s(bD)`` if up, ``s(bD)`` if down."""
    gain = beta * thumbs.ratio
    return (-gain).sigmoid(), gain.sigmoid()


def baseline(mismatched_ratio: Tensor) -> Tensor:
    """``z0 = max(0, mean D(x, y'))`` over completions of *other* prompts (Sec. 4.1).

    Args:
        mismatched_ratio: (M,) log-ratios; none gives 0.
    """
    if len(mismatched_ratio) == 0:
        return mismatched_ratio.new_zeros(())
    return mismatched_ratio.mean().clamp(min=0).detach()


def unpaired_loss(
    thumbs: UnpairedLogprobs,
    beta: float,
    loss: ThumbLoss,
    up_weight: float = 1.0,
    down_weight: float = 1.0,
) -> Loss:
    """Mean over completions, ``w_up p l_up + w_down (1 - p) l_down``, and its metrics.

    Args:
        thumbs: C completions.
        beta: strength of the pull to the reference.
        loss: of a single completion.
        up_weight: lambda_D of the paper.
        down_weight: lambda_U; for n_up and n_down rows, ``n_up w_up`` is best kept within
            1 to 4/3 of ``n_down w_down``.
    """
    up, down = loss(thumbs, beta)
    value = up_weight * thumbs.label * up + down_weight * (1 - thumbs.label) * down
    return Loss(value.mean(), thumb_metrics(thumbs, beta))


@torch.no_grad()
def thumb_metrics(thumbs: UnpairedLogprobs, beta: float) -> dict[str, Tensor]:
    """Implicit rewards ``b D`` of good and bad completions; a side without rows is left out."""
    if thumbs.ratio.is_meta:
        return {}  # a plan of memory: there is no value to look at
    reward, good = beta * thumbs.ratio, thumbs.label > 0.5
    agrees = (thumbs.ratio > thumbs.baseline) == good
    metrics = {"kl": thumbs.baseline, "rewards/accuracies": agrees.float().mean()}
    sides = {"rewards/chosen": reward[good], "rewards/rejected": reward[~good]}
    metrics |= {name: side.mean() for name, side in sides.items() if len(side)}
    if len(metrics) == 4:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics
