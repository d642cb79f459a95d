"""Early gradients equal those of the backward, at any scale."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.functional.early import backward_early


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_same_number_and_the_same_gradients(scale: float) -> None:
    torch.manual_seed(0)
    shared, own, foreign = (torch.randn(5, requires_grad=True) for _ in range(3))

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        return (shared * own).square().sum(), (shared.exp() * foreign).sum()

    first, second = losses()
    (scale * (0.1 * first + second)).backward()
    expected = [p.grad.clone() for p in (shared, own, foreign)]
    for p in (shared, own, foreign):
        p.grad = None

    first, second = losses()
    early = backward_early(first, [shared, own, foreign])
    assert float(early) == float(first)
    (scale * (0.1 * early + second)).backward()
    for p, grad in zip((shared, own, foreign), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-6, atol=0)


def test_the_graph_is_gone() -> None:
    """Tensors saved for the first loss are freed before the second is built."""
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * 2).square().sum()
    backward_early(loss, [weight])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_without_a_graph_nothing_happens() -> None:
    """A validation has no graph."""
    loss = torch.tensor(3.0)
    assert backward_early(loss, []) is loss
