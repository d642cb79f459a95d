"""Token log-probs and their statistics."""

from __future__ import annotations

import math

import torch

from lightning_rlhf.functional import logprobs


def test_uniform_logits_know_their_answer() -> None:
    logits, targets = torch.zeros(3, 8), torch.tensor([0, 3, 7])
    torch.testing.assert_close(
        logprobs.token_logprobs(logits, targets), torch.full((3,), -math.log(8))
    )
    found = logprobs.token_statistics(logits, targets)
    torch.testing.assert_close(found.logprob, torch.full((3,), -math.log(8)))
    torch.testing.assert_close(found.entropy, torch.full((3,), math.log(8)))
    torch.testing.assert_close(found.log_sum_squared, torch.full((3,), -math.log(8)))


def test_statistics_by_definition() -> None:
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(5, 11, generator=g), torch.randint(0, 11, (5,), generator=g)
    p = logits.softmax(-1)
    found = logprobs.token_statistics(logits, targets)
    torch.testing.assert_close(found.logprob, p[torch.arange(5), targets].log())
    torch.testing.assert_close(found.entropy, -(p * p.log()).sum(-1))
    torch.testing.assert_close(found.log_sum_squared, (p**2).sum(-1).log())


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
