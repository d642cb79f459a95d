"""The order of rows in an epoch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DistributedSampler

from lightning_rlhf.data.sampler import ResumableSampler


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (2, 5), (7, 2)])
def test_an_order_is_torchs_own(size: int, world: int, shuffle: bool) -> None:
    """Eight bytes a row, and the rows a ``DistributedSampler`` would draw."""
    for rank in range(world):
        for epoch in (0, 3):
            theirs = DistributedSampler(range(size), world, rank, shuffle, seed=5)  # type: ignore[arg-type]
            theirs.set_epoch(epoch)
            ours = ResumableSampler(range(size), world, rank, shuffle=shuffle, seed=5)  # type: ignore[arg-type]
            order = ours.order(epoch)
            assert order.dtype == torch.int64
            assert order.tolist() == list(theirs)
