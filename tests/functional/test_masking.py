"""Sums and lengths of segments."""

from __future__ import annotations

import torch

from lightning_rlhf.functional import masking


def test_segment_sum_counts_empty_segments() -> None:
    sums = masking.segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 4)
    assert sums.tolist() == [1, 0, 6, 0]


def test_segment_lengths_are_bincount() -> None:
    segments = torch.tensor([0, 2, 2, 4])
    found = masking.segment_lengths(segments, 6)
    assert torch.equal(found, torch.bincount(segments, minlength=6))
    assert masking.segment_lengths(segments[:0], 2).tolist() == [0, 0]
