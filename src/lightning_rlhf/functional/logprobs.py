"""Log-probabilities of given tokens, reduced in fp32 whatever the dtype of the logits."""

from __future__ import annotations

from torch import Tensor


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """``log p(target)`` under each row of logits.

    The caller pairs each target with the logits that predict it (``TokenBatch.source``); there is
    no shift here.

    Args:
        logits: (N, V) any float dtype; the reduction runs in fp32, since bf16 log-probs of a long
            answer are off by whole nats.
        targets: (N,) token ids.

    Returns:
        (N,) fp32.
    """
    logits = logits.float()
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


def log_sum_squared_probs(logits: Tensor) -> Tensor:
    """``log sum_v p_v^2``: what a policy expects of its own samples (WPO, arXiv 2406.11827).

    Args:
        logits: (N, V).

    Returns:
        (N,) fp32.
    """
    logits = logits.float()
    return (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)
