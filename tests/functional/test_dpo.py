"""Pair losses: closed forms and gradients (recorded numbers: test_golden.py)."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_rlhf.functional import dpo
from lightning_rlhf.functional.pairs import PairLogprobs, PairLoss
from support import some_pairs

PER_PAIR = [
    dpo.dpo_loss, dpo.hinge_loss, dpo.ipo_loss, dpo.exo_pair_loss, dpo.nca_pair_loss,
    dpo.robust_loss, dpo.bco_pair_loss, dpo.sppo_hard_loss, dpo.apo_zero_loss, dpo.apo_down_loss,
    dpo.discopop_loss, dpo.sigmoid_norm_loss, dpo.simpo_loss, dpo.orpo_loss,
]  # fmt: skip


def test_dpo_at_the_reference_is_ln_2() -> None:
    assert dpo.dpo_loss(some_pairs(same=True), 0.1).mean().item() == pytest.approx(
        math.log(2), abs=1e-6
    )


def test_one_pair_by_hand() -> None:
    one = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    pairs = PairLogprobs(one(-2.0), one(-5.0), one(-3.0), one(-4.0), one(2.0), one(4.0))
    # D_c = 1, D_r = -1, d = 2; b = 0.5
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    by_hand = {
        dpo.dpo_loss: -math.log(s(1)),
        dpo.hinge_loss: 0.0,
        dpo.ipo_loss: (1 / 2 + 1 / 4 - 1) ** 2,
        dpo.nca_pair_loss: -math.log(s(0.5)) - 0.5 * (math.log(s(-0.5)) + math.log(s(0.5))),
        dpo.bco_pair_loss: -2 * math.log(s(0.5)),
        dpo.sppo_hard_loss: 0.0,
        dpo.apo_zero_loss: 1 - s(0.5) + s(-0.5),
        dpo.apo_down_loss: s(0.5) + 1 - s(1),
        dpo.chosen_nll_loss: 1.0,
        dpo.sigmoid_norm_loss: -math.log(s(0.5 * 0.75)),
        dpo.simpo_loss: -math.log(s(0.5 * (-1 + 1.25) - 0.5)),
    }
    for loss, value in by_hand.items():
        assert loss(pairs, 0.5).item() == pytest.approx(value, abs=1e-12), loss.__name__
    p_c, p_r = math.exp(-1), math.exp(-1.25)
    odds = math.log(p_c / (1 - p_c)) - math.log(p_r / (1 - p_r))
    assert dpo.orpo_loss(pairs, 0.5).item() == pytest.approx(1 - 0.5 * math.log(s(odds)), abs=1e-9)


@pytest.mark.parametrize("loss", PER_PAIR)
def test_a_pair_does_not_feel_its_neighbours(loss: PairLoss) -> None:
    pairs = some_pairs(5)
    whole = loss(pairs, 0.3)
    for i in range(5):
        alone = PairLogprobs(*(field[i : i + 1] for field in pairs[:6]))
        torch.testing.assert_close(loss(alone, 0.3), whole[i : i + 1])


@pytest.mark.parametrize("loss", PER_PAIR)
def test_gradients_are_those_of_the_formula(loss: PairLoss) -> None:
    pairs = some_pairs(3)
    s = torch.cat([pairs.chosen, pairs.rejected]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(pairs._replace(chosen=x[:3], rejected=x[3:]), 0.3), s
    )


@pytest.mark.parametrize(("loss", "e"), [(dpo.exo_pair_loss, 0.0), (dpo.robust_loss, 0.5)])
def test_label_smoothing_out_of_range_is_named(loss: PairLoss, e: float) -> None:
    with pytest.raises(ValueError, match=f"got {e}"):
        loss(some_pairs(), 0.1, label_smoothing=e)
