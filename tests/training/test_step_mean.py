"""Accumulated batches weigh by what they hold, the last ones of an epoch too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from lightning_rlhf import DemonstrationData, SFTModule
from lightning_rlhf.training.step_mean import StepMean
from runs import Runs


@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_step_is_one_mean(batches: list[list[float]]) -> None:
    """Of d/dw mean(w x): the Trainer divides by as many batches as it accumulates, here six."""
    weight, mean = Parameter(torch.ones(())), StepMean()
    for batch in batches:
        (mean.weigh((weight * torch.tensor(batch)).mean(), len(batch)) / 6).backward()
    mean.bring_to_scale([weight], 6)
    everything = [x for batch in batches for x in batch]
    assert weight.grad is not None
    assert float(weight.grad) == pytest.approx(sum(everything) / len(everything), abs=1e-5)


def test_equal_batches_change_no_bit() -> None:
    weight, mean = Parameter(torch.tensor(0.3)), StepMean()
    values = torch.rand(4, generator=torch.Generator().manual_seed(0))
    for value in values:
        (mean.weigh(weight * value, 7) / 4).backward()
    before = weight.grad.clone()
    mean.bring_to_scale([weight], 4)
    assert torch.equal(weight.grad, before)


def test_batches_that_hold_nothing_do_not_divide_by_zero() -> None:
    weight, mean = Parameter(torch.ones(())), StepMean()
    mean.weigh(weight * 0.0, 0).backward()
    mean.bring_to_scale([weight], 2)
    assert float(weight.grad) == 0.0


def test_a_step_without_batches_has_no_gradient() -> None:
    weight = Parameter(torch.ones(()))
    weight.grad = torch.zeros(())
    StepMean().bring_to_scale([weight], 1)
    assert weight.grad is None


def test_the_last_batches_of_an_epoch_are_one_mean(light: Runs) -> None:
    """Five rows of 1 to 9 tokens, three batches a step: plain SGD steps by two means of tokens."""
    rows = [{"prompt": "w1", "completion": " ".join(["w2"] * n)} for n in (1, 9, 2, 5, 1)]

    def weights(batch_size: int, accumulate: int) -> torch.Tensor:
        torch.manual_seed(0)
        module = SFTModule(light.backbone(), lr=0.5, warmup=0.0, optimizer=torch.optim.SGD)
        data = DemonstrationData(rows, val_fraction=0.0, batch_size=batch_size)
        trainer = light.trainer(accumulate_grad_batches=accumulate)
        trainer.fit(module, data)
        assert trainer.global_step == 2
        return torch.cat([p.detach().flatten() for p in module._trained_parameters()])

    assert (weights(3, 1) - weights(1, 3)).abs().max() < 1e-6
