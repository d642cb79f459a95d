"""Drawing a token by its place in the cumulative distribution."""

from __future__ import annotations

import torch

from lightning_rlhf.functional.sampling import draw


def test_draw_inverts_the_cumulative_distribution():
    """Ends of the range, tokens of no probability, and a likeliest token above all others."""
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(4, 5)
    uniform = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    drawn = draw(logits, 0.7, uniform)
    assert drawn.token.tolist() == [1, 1, 3, 3]
    assert torch.allclose(drawn.logprob, torch.full((4,), 0.5).log())
    assert draw(torch.tensor([[1.0, 3.0, 2.0]]), 0.0, None).token.tolist() == [1]
    large = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0))
    middle = torch.full((3,), 0.5, dtype=torch.float64)
    cumulative = large.double().softmax(-1).cumsum(-1)
    assert draw(large, 1.0, middle).token.tolist() == (cumulative < 0.5).sum(-1).tolist()
