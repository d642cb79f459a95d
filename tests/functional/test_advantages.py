"""Advantages by their definitions and by hand (recorded numbers: test_golden.py)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_rlhf.functional.advantages import (
    dr_grpo_advantages,
    gae,
    grpo_advantages,
    masked_normalize,
    masked_rescale,
    reinforce_pp_advantages,
    rloo_advantages,
)


def by_definition(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """``A_t = sum_l (gamma lam)^l d_{t+l}``, term by term."""
    length = len(rewards)
    deltas = [
        rewards[t] + (gamma * values[t + 1] if t + 1 < length else 0) - values[t]
        for t in range(length)
    ]
    return torch.stack(
        [sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t)) for t in range(length)]
    )


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_gae_is_its_definition_row_by_row(
    lengths: list[int], gamma: float, lam: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rewards, values = (
        torch.randn(mask.shape, generator=generator, dtype=torch.float64).masked_fill(~mask, 0.0)
        for _ in range(2)
    )
    found = gae(rewards, values, gamma, lam)
    for row, n in enumerate(lengths):
        wanted = by_definition(rewards[row, :n], values[row, :n], gamma, lam)
        torch.testing.assert_close(found[row, :n], wanted)
        assert not found[row, n:].any()


def test_gae_at_its_ends() -> None:
    rewards, values = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    torch.testing.assert_close(
        gae(rewards, values, 0.9, 0.0), rewards + 0.9 * following - values
    )  # the TD error
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gae(rewards, values, 1.0, 1.0), to_go - values)  # Monte Carlo


def test_normalizing_and_rescaling() -> None:
    values = torch.tensor([[1.0, 2.0, 100.0], [3.0, 6.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    normal, scaled = masked_normalize(values, mask), masked_rescale(values, mask)
    kept = torch.tensor([1.0, 2.0, 3.0, 6.0])
    torch.testing.assert_close(normal[mask], (kept - 3) / kept.std())
    torch.testing.assert_close(scaled[mask], (kept - 3) / kept.std() + 3)
    assert not normal[~mask].any() and not scaled[~mask].any()
    one = torch.tensor([[True, False, False], [False, False, False]])
    assert not masked_normalize(values, one).any()  # one value has no spread


SCORES = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0])
GROUP = torch.tensor([0, 0, 0, 1, 1])


def test_rloo_by_hand() -> None:
    wanted = torch.tensor([1 - 4.0, 2 - 3.5, 6 - 1.5, 0, 0])
    torch.testing.assert_close(rloo_advantages(SCORES, GROUP), wanted)
    assert rloo_advantages(torch.tensor([3.0]), torch.tensor([0])) == 0  # nothing to compare with


def test_grpo_and_its_variants_by_hand() -> None:
    centered = torch.tensor([-2.0, -1.0, 3.0, 0.0, 0.0])
    torch.testing.assert_close(dr_grpo_advantages(SCORES, GROUP), centered)
    std = 7**0.5  # (4 + 1 + 9) / 2
    wanted = centered / torch.tensor([std + 1e-4] * 3 + [1e-4] * 2)
    torch.testing.assert_close(grpo_advantages(SCORES, GROUP), wanted)
    whole = centered / (14 / 4) ** 0.5
    torch.testing.assert_close(reinforce_pp_advantages(SCORES, GROUP), whole)
