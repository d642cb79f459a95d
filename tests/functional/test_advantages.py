"""Advantages by their definitions, by hand, and as the reference implementation recorded them."""

from __future__ import annotations

import json

import pytest
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
from lightning_rlhf.functional.ppo import policy_loss, token_kl, token_rewards, value_loss
from support import shared


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


def test_normalising_and_rescaling() -> None:
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
    assert rloo_advantages(torch.tensor([3.0]), torch.tensor([0])) == 0  # nobody to compare with


def test_grpo_and_its_kin_by_hand() -> None:
    centred = torch.tensor([-2.0, -1.0, 3.0, 0.0, 0.0])
    torch.testing.assert_close(dr_grpo_advantages(SCORES, GROUP), centred)
    std = 7**0.5  # (4 + 1 + 9) / 2
    wanted = centred / torch.tensor([std + 1e-4] * 3 + [1e-4] * 2)
    torch.testing.assert_close(grpo_advantages(SCORES, GROUP), wanted)
    whole = centred / (14 / 4) ** 0.5
    torch.testing.assert_close(reinforce_pp_advantages(SCORES, GROUP), whole)


def test_every_tensor_of_the_recorded_run() -> None:
    """TRL 1.12.0, eight rows, each step of its PPO."""
    recorded = json.loads(shared("golden/ppo.json").read_text())
    config, steps = recorded.pop("config"), recorded.pop("steps")
    run = {name: torch.tensor(value) for name, value in recorded.items()}
    n = run["sequence_lengths"] + 1
    mask, value_mask = ~run["padding_mask"], ~run["padding_mask_p1"]
    close = {"atol": 1e-5, "rtol": 0.0}

    kl = token_kl(run["logprobs"], run["ref_logprobs"]).masked_fill(~mask, 0.0)
    torch.testing.assert_close(kl, run["kl"], **close)
    torch.testing.assert_close(-config["kl_coef"] * kl, run["non_score_reward"], **close)
    after = torch.where(n < kl.shape[1], n, n - 1)  # one behind the end token, where there is room
    rewards = token_rewards(kl, run["scores"], after, config["kl_coef"])
    torch.testing.assert_close(rewards, run["rewards_prewhiten"], **close)
    rewards = masked_rescale(rewards, value_mask)
    torch.testing.assert_close(rewards, run["rewards"], **close)
    advantages = gae(rewards, run["values"], config["gamma"], config["lam"])
    torch.testing.assert_close(advantages, run["advantages_raw"], **close)
    torch.testing.assert_close(advantages + run["values"], run["returns"], **close)
    advantages = masked_normalize(advantages, mask)
    whitened = run["advantages_whitened"]
    torch.testing.assert_close(advantages[mask], whitened[mask], **close)

    for step in steps:
        rows = torch.tensor(step["inds"])
        counts, read = mask[rows], value_mask[rows]
        policy = policy_loss(
            torch.tensor(step["new_logprobs"])[counts], torch.tensor(step["mb_logprobs"])[counts],
            torch.tensor(step["mb_advantage"])[counts], config["cliprange"],
        )  # fmt: skip
        value = value_loss(
            torch.tensor(step["vpred"])[read], torch.tensor(step["mb_values"])[read],
            torch.tensor(step["mb_return"])[read], config["cliprange_value"],
        )  # fmt: skip
        assert policy.value.item() == pytest.approx(step["pg_loss"], abs=1e-5)
        assert value.value.item() == pytest.approx(step["vf_loss"], abs=1e-5)
