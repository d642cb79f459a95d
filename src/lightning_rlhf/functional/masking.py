"""Reductions over tokens that count. A mask is True where a token counts, always."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of ``values`` where ``mask`` is True; under False may lie anything, NaN included."""
    return (
        values.masked_fill(~mask, 0.0).sum()
        if dim is None
        else values.masked_fill(~mask, 0.0).sum(dim)
    )


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of ``values`` where ``mask`` is True; 0 where nothing counts."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(values, mask, dim) / count.clamp(min=1)


def until_first(ids: Tensor, stop_ids: Tensor) -> Tensor:
    """True up to and including the first stop token of each row, False after it.

    The end token itself counts, so pad == eos loses nothing: a mask made from ``ids != pad`` would
    drop it and the model would never learn to stop.

    Args:
        ids: (..., T) token ids.
        stop_ids: (E,) ids that end a text.

    Returns:
        (..., T) bool.
    """
    is_stop = torch.isin(ids, stop_ids.to(ids.device))
    return (is_stop.cumsum(-1) - is_stop.long()) == 0


def segment_sum(values: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Sum per segment.

    Args:
        values: (N,) one value per token.
        segment: (N,) the segment of each token, in 0..segments-1.
        segments: how many segments there are, empty ones included.

    Returns:
        (segments,) sums in the dtype of ``values``.
    """
    return values.new_zeros(segments).index_add(0, segment, values)
