"""Losses and metrics of several processes, which a table stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_rlhf.functional.kto import UnpairedLogprobs, kto_loss, unpaired_loss
from lightning_rlhf.functional.loss import Loss, StepLoss, across_processes
from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.functional.sft import sft_loss

NUMBERS = st.floats(-3, 0)


def of_all(losses: Sequence[Loss], weights: Sequence[float]) -> list[StepLoss]:
    """What ``across_processes`` gives to each process."""
    rows: list[Tensor] = []

    class Recorded(Processes):
        def stack(self, row: Tensor) -> Tensor:
            rows.append(row)
            return torch.stack([row] * self.size)

    class Replayed(Processes):
        def stack(self, row: Tensor) -> Tensor:
            return torch.stack(rows)

    size = len(losses)
    for loss, weight in zip(losses, weights, strict=True):
        across_processes(loss, weight, Recorded(0, size))
    return [
        across_processes(loss, weight, Replayed(rank, size))
        for rank, (loss, weight) in enumerate(zip(losses, weights, strict=True))
    ]


@settings(max_examples=30)
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=6), min_size=2, max_size=4))
def test_ddps_mean_of_processes_is_the_mean_of_all_tokens(parts: list[list[float]]) -> None:
    whole = sft_loss(torch.tensor([x for part in parts for x in part]))
    found = of_all([sft_loss(torch.tensor(part)) for part in parts], [len(p) for p in parts])
    assert float(sum(f.value for f in found)) / len(parts) == pytest.approx(float(whole.value))
    for one in found:
        assert float(one.logged) == pytest.approx(float(whole.value))
        perplexity = float(whole.metrics["perplexity"])
        assert float(one.metrics["perplexity"]) == pytest.approx(perplexity, rel=1e-5)


@settings(max_examples=30)
@given(st.data())
def test_sides_without_rows_in_a_process_are_those_of_the_others(data: st.DataObject) -> None:
    """KTO on labels: a process may have no good or no bad completion, or neither side anywhere."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    total = sum(sizes)
    label = torch.tensor(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    ratio = torch.tensor(data.draw(st.lists(NUMBERS, min_size=total, max_size=total)))

    def loss(ratio: Tensor, label: Tensor) -> Loss:
        inputs = UnpairedLogprobs(ratio, label.float(), torch.tensor(0.1))
        return unpaired_loss(inputs, 0.1, kto_loss)

    whole = loss(ratio, label)
    parts = [loss(r, p) for r, p in zip(ratio.split(sizes), label.split(sizes), strict=True)]
    for one in of_all(parts, sizes):
        assert one.metrics.keys() == whole.metrics.keys()
        for name, value in whole.metrics.items():
            assert float(one.metrics[name]) == pytest.approx(float(value), abs=1e-5), name


def test_a_variance_is_about_the_mean_of_all_and_an_error_the_largest() -> None:
    values = [torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10.0])]
    losses = [
        Loss(v.mean(), {"r": v.mean(), "r_var": v.var(unbiased=False), "r_error": v.max()})
        for v in values
    ]
    for one in of_all(losses, [3, 1]):
        assert float(one.metrics["r_var"]) == pytest.approx(
            float(torch.cat(values).var(unbiased=False))
        )
        assert float(one.metrics["r_error"]) == 10.0


def test_one_process_changes_nothing() -> None:
    loss: Any = sft_loss(torch.tensor([-1.0, -2.0]))
    alone = across_processes(loss, 2, Processes())
    assert alone.value is loss.value and alone.metrics is loss.metrics and alone.weight == 2
