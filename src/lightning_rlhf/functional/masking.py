"""Reductions over the tokens of each completion."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Sum the values of each segment.

    Args:
        values: (N,) one value per token.
        segment: (N,) the segment of each token, in 0..segments-1.
        segments: how many segments there are, empty ones included.

    Returns:
        (segments,) sums in the dtype of ``values``.
    """
    return values.new_zeros(segments).index_add(0, segment, values)


def segment_lengths(segments: Tensor, count: int) -> Tensor:
    """Count the entries of each segment: (count,) int64. Unlike bincount, it runs on meta.

    Args:
        segments: (N,) the segment of each entry.
        count: how many segments there are.
    """
    return segments.new_zeros(count).index_add(0, segments, torch.ones_like(segments))
