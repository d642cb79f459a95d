"""Divergences: their limits, slopes and ranges."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.functional import divergences
from lightning_rlhf.functional.divergences import AlphaDivergence


def test_alpha_divergence_ends_in_reverse_kl() -> None:
    d = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.equal(AlphaDivergence(1.0)(d), d)
    torch.testing.assert_close(AlphaDivergence(1 + 1e-7)(d), d, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(AlphaDivergence(0.0)(d), divergences.forward_kl(d))


@pytest.mark.parametrize(
    "divergence", [divergences.forward_kl, divergences.jensen_shannon, AlphaDivergence(0.5)]
)
def test_divergences_agree_to_first_order_and_stay_finite(
    divergence: divergences.Divergence,
) -> None:
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(zero).sum(), zero)
    assert divergence(zero).item() == 0
    assert slope.item() == pytest.approx(0.5 if divergence is divergences.jensen_shannon else 1.0)
    assert torch.isfinite(divergence(torch.tensor([-1e4, 1e4]))).all()
