"""Random numbers of a key alone."""

from __future__ import annotations

import torch

from lightning_rlhf.training.random_stream import random_stream

CPU = torch.device("cpu")


def draw(*key: int) -> list[float]:
    with random_stream(CPU, *key):
        return torch.rand(3).tolist()


def test_a_stream_depends_on_its_key_alone() -> None:
    torch.manual_seed(0)
    first = draw(1, 0, 5)
    torch.rand(7)
    assert draw(1, 0, 5) == first
    others = [draw(2, 0, 5), draw(1, 1, 5), draw(1, 0, 6), draw(1, 0, -5), draw(10, 5)]
    assert len({tuple(numbers) for numbers in [first, *others]}) == 6


def test_a_stream_changes_nothing_outside() -> None:
    torch.manual_seed(0)
    alone = torch.rand(2).tolist()
    torch.manual_seed(0)
    draw(3)
    assert torch.rand(2).tolist() == alone
