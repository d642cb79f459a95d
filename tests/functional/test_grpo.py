"""GRPO's loss at the first update is a weighted policy gradient."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.functional.grpo import LossAggregation, grpo_loss, token_weights
from lightning_rlhf.functional.ppo import token_kl

SEQUENCE = torch.tensor([0, 0, 0, 1])  # three tokens, and one
ADVANTAGES = torch.tensor([2.0, -1.0])


@pytest.mark.parametrize(
    ("mean", "weights"),
    [
        ("completion", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ("token", [1 / 4] * 4),
        ("length", [1 / 16] * 4),
    ],
)
def test_token_weights(mean: LossAggregation, weights: list[float]) -> None:
    found = token_weights(SEQUENCE, 2, mean, 8)
    torch.testing.assert_close(found, torch.tensor(weights))


def test_grpo_begins_as_a_weighted_policy_gradient() -> None:
    new = torch.randn(4, requires_grad=True)
    old, reference = new.detach().clone(), torch.randn(4)
    weight = token_weights(SEQUENCE, 2, "completion", 8)
    loss = grpo_loss(new, old, reference, ADVANTAGES[SEQUENCE], weight, 0.2, 0.5)
    loss.value.backward()
    kl_slope = 1 - (reference - old).exp()  # of k3 in the policy's log-prob
    wanted = weight * (-ADVANTAGES[SEQUENCE] + 0.5 * kl_slope)
    torch.testing.assert_close(new.grad, wanted)
    value = (
        -(weight * ADVANTAGES[SEQUENCE]).sum()
        + 0.5 * (weight * token_kl(old, reference, "k3")).sum()
    )
    torch.testing.assert_close(loss.value.detach(), value)
