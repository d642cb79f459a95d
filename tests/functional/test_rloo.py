"""RLOO's loss at the first update is REINFORCE's; later it is clipped by whole completions."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.functional.rloo import rloo_loss

SEQUENCE = torch.tensor([0, 0, 0, 1])  # three tokens, and one
ADVANTAGES = torch.tensor([2.0, -1.0])


def test_rloo_begins_as_reinforce_on_whole_completions() -> None:
    new = torch.randn(4, requires_grad=True)
    loss = rloo_loss(new, new.detach().clone(), ADVANTAGES, SEQUENCE, 0.2)
    loss.value.backward()
    torch.testing.assert_close(new.grad, -ADVANTAGES[SEQUENCE] / 2)  # -A grad log p, two answers


def test_rloo_clips_a_completion_as_one() -> None:
    """Three tokens that each grew by 0.1 nats make one ratio of e^0.3."""
    new = torch.tensor([0.1, 0.1, 0.1, 0.0], requires_grad=True)
    loss = rloo_loss(new, torch.zeros(4), ADVANTAGES, SEQUENCE, 0.2)
    loss.value.backward()
    assert loss.value.item() == pytest.approx((-2.0 * 1.2 + 1.0) / 2)
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 0.0, 0.0, 0.5]))
