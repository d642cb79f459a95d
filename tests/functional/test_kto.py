"""Losses of unpaired labels, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_rlhf.functional.kto import (
    UnpairedLogprobs,
    apo_zero_unpaired_loss,
    baseline,
    kto_loss,
    unpaired_loss,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


RATIO, LABEL, Z0, BETA = [1.5, -0.5, 2.0, 0.25], [1.0, 0.0, 0.0, 0.75], 0.4, 0.3
UNPAIRED = UnpairedLogprobs(torch.tensor(RATIO), torch.tensor(LABEL), torch.tensor(Z0))


def test_kto_by_hand() -> None:
    up = [1 - sigmoid(BETA * (d - Z0)) for d in RATIO]
    down = [1 - sigmoid(BETA * (Z0 - d)) for d in RATIO]
    found = kto_loss(UNPAIRED, BETA)
    torch.testing.assert_close(found[0], torch.tensor(up))
    torch.testing.assert_close(found[1], torch.tensor(down))
    expected = sum(1.2 * p * u + 0.8 * (1 - p) * d for p, u, d in zip(LABEL, up, down, strict=True))
    loss = unpaired_loss(UNPAIRED, BETA, kto_loss, up_weight=1.2, down_weight=0.8)
    assert float(loss.value) == pytest.approx(expected / 4, abs=1e-6)


def test_apo_zero_unpaired_by_hand() -> None:
    up, down = apo_zero_unpaired_loss(UNPAIRED, BETA)
    torch.testing.assert_close(up, torch.tensor([1 - sigmoid(BETA * d) for d in RATIO]))
    torch.testing.assert_close(down, torch.tensor([sigmoid(BETA * d) for d in RATIO]))


def test_baseline_is_a_kl_and_so_never_negative() -> None:
    ratio = torch.tensor([1.0, 2.0, -0.5], requires_grad=True)
    assert float(baseline(ratio)) == pytest.approx(2.5 / 3)
    assert not baseline(ratio).requires_grad
    assert float(baseline(-ratio)) == 0
    assert float(baseline(ratio[:0])) == 0


def test_the_policy_is_pushed_the_right_way() -> None:
    ratio = torch.zeros(2, requires_grad=True)
    for loss in (kto_loss, apo_zero_unpaired_loss):
        unpaired = UnpairedLogprobs(ratio, torch.tensor([1.0, 0.0]), torch.tensor(0.0))
        (gradient,) = torch.autograd.grad(unpaired_loss(unpaired, 1.0, loss).value, ratio)
        assert gradient[0] < 0 < gradient[1], "up with the good, down with the bad"


def test_metrics_leave_out_a_side_without_rows() -> None:
    metrics = unpaired_loss(UNPAIRED, BETA, kto_loss).metrics
    assert float(metrics["rewards/chosen"]) == pytest.approx(BETA * (1.5 + 0.25) / 2)
    assert float(metrics["rewards/rejected"]) == pytest.approx(BETA * (-0.5 + 2.0) / 2)
    assert float(metrics["rewards/margins"]) == pytest.approx(BETA * (0.875 - 0.75))
    assert float(metrics["rewards/accuracies"]) == 0.5  # 1.5 up and -0.5 down are right
    only_good = unpaired_loss(UNPAIRED._replace(label=torch.ones(4)), BETA, kto_loss).metrics
    assert only_good.keys() == {"kl", "rewards/accuracies", "rewards/chosen"}
