"""Supervised fine-tuning: the negative log-likelihood of the tokens that count."""

from __future__ import annotations

from torch import Tensor

from lightning_rlhf.functional.loss import Loss


def sft_loss(logprobs: Tensor) -> Loss:
    """Mean negative log-likelihood over every counting token of the batch.

    Args:
        logprobs: (N,) log-probs of the tokens that count, all rows together: a token weighs the
            same in a long answer as in a short one.
    """
    value = -logprobs.mean()
    return Loss(value, {"perplexity": value.detach().exp()})
