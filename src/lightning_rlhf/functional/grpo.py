"""Group-relative policy optimization (arXiv 2402.03300): PPO's clip, no critic, KL in the loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.masking import segment_lengths
from lightning_rlhf.functional.ppo import policy_loss, token_kl

LossAggregation = Literal["completion", "token", "length"]


def grpo_loss(
    logprobs: Tensor,
    old: Tensor,
    reference: Tensor,
    advantages: Tensor,
    weight: Tensor,
    clip: float,
    kl_coef: float,
    dual_clip: float | None = None,
) -> Loss:
    """``sum_t w_t [clipped(A_t, r_t) + kl_coef k3_t]`` (Eq. 3).

    Args:
        logprobs: (N,) of the policy in training.
        old: (N,) of the policy that sampled.
        reference: (N,).
        advantages: (N,) of the completion, repeated for each of its tokens.
        weight: (N,) of ``token_weights``.
        clip: of the ratio.
        kl_coef: the KL coefficient.
        dual_clip: see ``policy_loss``.
    """
    scaled = weight * len(weight) * advantages  # policy_loss takes a plain mean over tokens
    policy = policy_loss(logprobs, old, scaled, clip, dual_clip)
    kl = (weight * token_kl(logprobs, reference, "k3")).sum()
    value = policy.value + kl_coef * kl if kl_coef else policy.value
    return policy._replace(value=value, metrics={**policy.metrics, "policy/kl_k3": kl.detach()})


def token_weights(
    completion_index: Tensor, completions: int, aggregation: LossAggregation, longest: int
) -> Tensor:
    """Compute the weight of each token in the loss: (N,).

    Args:
        completion_index: (N,) the completion of each token.
        completions: number of completions.
        aggregation: "completion" averages each completion and then those (GRPO), "token" all tokens
            alike (DAPO, arXiv 2503.14476), "length" divides each completion by ``longest``, so that
            long wrong answers are not spared (Dr. GRPO, arXiv 2503.20783).
        longest: largest number of tokens in a completion.
    """
    ones = completion_index.new_ones(len(completion_index)).float()
    if aggregation == "token":
        return ones / len(ones)
    if aggregation == "length":
        return ones / (completions * longest)
    return ones / (completions * segment_lengths(completion_index, completions)[completion_index])
