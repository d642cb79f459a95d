"""Supervised fine-tuning: the negative log-likelihood of the tokens under the loss mask."""

from __future__ import annotations

from torch import Tensor

from lightning_rlhf.functional.loss import Loss


def sft_loss(logprobs: Tensor) -> Loss:
    """Mean negative log-likelihood over the batch's tokens under the loss mask.

    Args:
        logprobs: (N,) log-probs of those tokens, all rows together: a token weighs the same in a
            long answer as in a short one.
    """
    value = -logprobs.mean()
    return Loss(value, {"perplexity": value.detach().exp()})
