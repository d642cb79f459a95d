"""Token log-probs and segments."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_rlhf.functional import logprobs, masking
from lightning_rlhf.functional.sft import sft_loss


def test_uniform_logits_know_their_answer() -> None:
    logits, targets = torch.zeros(3, 8), torch.tensor([0, 3, 7])
    torch.testing.assert_close(
        logprobs.token_logprobs(logits, targets), torch.full((3,), -math.log(8))
    )
    torch.testing.assert_close(
        logprobs.log_sum_squared_probs(logits), torch.full((3,), -math.log(8))
    )


def test_log_sum_of_squares_by_definition() -> None:
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    by_hand = (logits.softmax(-1) ** 2).sum(-1).log()
    torch.testing.assert_close(logprobs.log_sum_squared_probs(logits), by_hand)


def test_bf16_logits_reduce_in_fp32() -> None:
    """A long answer's log-prob is off by whole nats when the reduction runs in bf16."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 1000, generator=g).bfloat16()
    targets = torch.randint(0, 1000, (400,), generator=g)
    exact = torch.log_softmax(logits.double(), -1).gather(-1, targets[:, None]).sum()
    naive = torch.log_softmax(logits, -1).gather(-1, targets[:, None]).sum()
    ours = logprobs.token_logprobs(logits, targets)
    assert ours.dtype == torch.float32
    assert abs(ours.sum() - exact) < 1e-2
    assert abs(naive - exact) > 1


def test_sft_loss_is_a_mean_over_tokens() -> None:
    loss = sft_loss(torch.tensor([-1.0, -2.0, -6.0]))
    assert loss.value == 3
    assert loss.metrics["perplexity"].item() == pytest.approx(math.exp(3))


def test_segment_sum_counts_empty_segments() -> None:
    sums = masking.segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 4)
    assert sums.tolist() == [1, 0, 6, 0]
