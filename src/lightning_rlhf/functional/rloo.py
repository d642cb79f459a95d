"""REINFORCE leave-one-out (arXiv 2402.14740): a completion is one action."""

from __future__ import annotations

from torch import Tensor

from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.functional.ppo import policy_loss


def rloo_loss(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    completion_index: Tensor,
    clip: float,
    dual_clip: float | None = None,
) -> Loss:
    """PPO's clip on the ratios of whole completions, mean over completions.

    At the first update the ratio is 1 and the gradient is REINFORCE's, ``-A grad log p(y)``.

    Args:
        logprobs: (N,) of the policy in training.
        old: (N,) of the policy that sampled.
        advantages: (C,).
        completion_index: (N,) the completion of each token.
        clip: of the ratio.
        dual_clip: see ``policy_loss``.
    """
    completions = len(advantages)
    new, before = (segment_sum(lp, completion_index, completions) for lp in (logprobs, old))
    return policy_loss(new, before, advantages, clip, dual_clip)
