"""Log-probabilities of given tokens, reduced in fp32 for logits of any dtype."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TokenStatistics(NamedTuple):
    """Statistics of a distribution over tokens and of one token; all (N,) fp32."""

    logprob: Tensor
    entropy: Tensor  # nats
    log_sum_squared: Tensor  # log sum_v p_v^2: the expected probability of a sample


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute ``log p(target)`` under each row of logits.

    The caller pairs each target with the logits that predict it (``TokenBatch.predictor_index``):
    nothing is shifted here.

    Args:
        logits: (N, V) any float dtype; the reduction runs in fp32, since bf16 log-probs of a long
            answer are off by whole nats.
        targets: (N,) token ids.

    Returns:
        (N,) fp32.
    """
    logits = logits.float()
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


def token_statistics(logits: Tensor, targets: Tensor) -> TokenStatistics:
    """Like ``token_logprobs``, with entropy and ``log sum_v p_v^2`` (WPO, arXiv 2406.11827).

    Args:
        logits: (N, V) any float dtype.
        targets: (N,) token ids.
    """
    log_p = logits.float().log_softmax(-1)
    logprob = log_p.gather(-1, targets[:, None]).squeeze(-1)
    return TokenStatistics(logprob, -(log_p.exp() * log_p).sum(-1), (2 * log_p).logsumexp(-1))
