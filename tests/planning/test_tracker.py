"""The memory tracker counts storages by kind and by stage."""

from __future__ import annotations

import torch

from lightning_rlhf.planning.plan import WEIGHTS
from lightning_rlhf.planning.tracker import HEAD, MemoryTracker


def test_the_tracker_counts_by_hand() -> None:
    """fp32: a and b are 400 bytes each, the product of 10 x 10 another 400, a view nothing."""
    a, b = torch.ones(10, 10), torch.ones(10, 10)
    stage = "first"
    tracker = MemoryTracker(lambda: stage, vocabulary=7)
    tracker.hold(WEIGHTS, [a, b, a.T])
    assert tracker.live[WEIGHTS] == 800
    with tracker:
        c = a @ b
        d = c.view(100)
        stage = "second"
        logits = torch.ones(3, 7)
        del c, d
        stage = "third"
        e = torch.ones(5)
    assert {name: sum(kinds.values()) for name, kinds in tracker.peaks.items()} == {
        "first": 1200, "second": 1200 + 84, "third": 800 + 84 + 20,
    }  # fmt: skip
    assert tracker.peaks["second"][HEAD] == logits.nbytes
    del logits, e
    assert sum(tracker.live.values()) == 800
