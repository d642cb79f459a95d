"""Attention over packed rows, behind transformers' own interface.

The layout of a row travels as a keyword of the model's forward down to the function registered
here. A context variable would fail: gradient checkpointing recomputes layers after it is reset.
Every other call, padded or generating, uses transformers' own attention.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lightning_rlhf.batches import Groups

log = logging.getLogger(__name__)
# transformers looks for "flash", "sdpa" and "flex_attention" in these names: avoid all three
OVER_SDPA, OVER_EAGER = "packed_rows", "packed_rows_over_eager"


class Extras(NamedTuple):
    """Options of attention that some model families have."""

    scale: float | None
    window: int | None  # sliding window: a token sees itself and the window - 1 before it
    softcap: float | None
    sinks: Tensor | None  # (heads,) logits that take probability without a value


class PackedRow:
    """The layout of one packed row during one forward, and the masks its layers share.

    Args:
        groups: lengths (prompt, completion, completion, ...) in the order of the row.
    """

    def __init__(self, groups: Groups):
        # one completion and its prompt are one plain causal segment
        self.groups = [(0, [sum(g)]) if len(g) == 2 else (g[0], list(g[1:])) for g in groups]
        self.sizes = [n for p, cs in self.groups for n in ([p] if p else []) + cs]
        self.seen: set[int] = set()  # layers that applied the layout
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}
        self._varlen: tuple[Tensor, Tensor, Tensor, int, int] | None = None

    def mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """Causal mask of the last queries within the sliding window: (queries, keys) bool."""
        key = (queries, keys, window)
        if key not in self._masks:
            place = torch.arange(keys - queries, keys, device=device)[:, None]
            behind = place - torch.arange(keys, device=device)
            self._masks[key] = (behind >= 0) & (behind < (window or keys + 1))
        return self._masks[key]

    def varlen(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """Arguments of a varlen kernel: key positions (K,), cumulative and longest lengths."""
        if self._varlen is None:
            places: list[Tensor] = []
            keys, start = [], 0
            for prompt, completions in self.groups:
                head = torch.arange(start, start + prompt)
                if prompt:
                    places.append(head)
                start += prompt
                for n in completions:
                    places += [head, torch.arange(start, start + n)]
                    start += n
                keys += ([prompt] if prompt else []) + [prompt + n for n in completions]

            def cumulative(sizes: list[int]) -> Tensor:
                ends = torch.tensor([0, *sizes]).cumsum(0)
                return ends.to(device, torch.int32)

            self._varlen = (
                torch.cat(places).to(device),
                cumulative(self.sizes),
                cumulative(keys),
                max(self.sizes),
                max(keys),
            )
        return self._varlen


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: PackedRow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Use the packed layout if given, else transformers' own implementation.

    Args:
        module: the attention layer.
        query: (1, heads, T, D).
        key: (1, key heads, T, D), value alike.
        value: like key.
        attention_mask: of rows that are not packed.
        packed: the layout.
        kwargs: from the layer: scaling, sliding_window, softcap, s_aux...

    Returns:
        (1, T, heads, D) and no weights.
    """
    if packed is None:
        over_eager = module.config._attn_implementation == OVER_EAGER  # type: ignore[union-attr]
        own = sys.modules[type(module).__module__].__dict__.get("eager_attention_forward")
        stock = own if over_eager and own is not None else ALL_ATTENTION_FUNCTIONS["sdpa"]
        return stock(module, query, key, value, attention_mask, **kwargs)
    assert len(query) == 1, "a packed batch is one row"
    packed.seen.add(module.layer_idx)  # type: ignore[arg-type]
    extras = Extras(
        scale=kwargs.get("scaling"),
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
    )
    plain = extras.softcap is None and extras.sinks is None
    if plain and takes_varlen(query):
        return _by_varlen(packed, query, key, value, extras), None
    return _by_segment(packed, query, key, value, extras), None


def takes_varlen(query: Tensor) -> bool:
    """Tell whether a varlen kernel takes a query's device and dtype."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and query.is_cuda and varlen_serves(query.device)


@cache
def varlen_serves(device: torch.device) -> bool:
    """Try once whether flash attention's varlen kernel runs on a GPU: old cards lack it.

    Without it each segment is a kernel launch of its own, with the same result.
    """
    one = torch.zeros(2, 1, 64, device=device, dtype=torch.bfloat16)
    ends = torch.tensor([0, 2], device=device, dtype=torch.int32)
    try:
        varlen_attn(
            one, one, one, cu_seq_q=ends, cu_seq_k=ends, max_q=2, max_k=2, window_size=(-1, 0)
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        log.warning("%s has no varlen attention, segments run one by one: %s", name, error)
        return False
    return True


def _by_segment(
    row: PackedRow, query: Tensor, key: Tensor, value: Tensor, extras: Extras
) -> Tensor:
    """Attend per prompt and per completion; a completion's keys are its prompt's and its own.

    Uses ``torch.split``: the backward of a slice writes a zero tensor of the whole row.
    """
    pieces = zip(*(x.split(row.sizes, dim=2) for x in (query, key, value)), strict=True)
    out: list[Tensor] = []
    for prompt, completions in row.groups:
        before: tuple[Tensor, Tensor] | None = None
        if prompt:
            q, k, v = next(pieces)
            out.append(_segment(row, q, k, v, extras))
            if extras.window is not None and prompt >= extras.window:
                k, v = (x[:, :, prompt - extras.window + 1 :] for x in (k, v))
            before = k, v
        for _ in completions:
            q, k, v = next(pieces)
            if before is not None:
                k, v = (torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True))
            out.append(_segment(row, q, k, v, extras))
    return torch.cat(out, dim=2).transpose(1, 2).contiguous()


def _segment(row: PackedRow, q: Tensor, k: Tensor, v: Tensor, extras: Extras) -> Tensor:
    queries, keys = q.shape[2], k.shape[2]
    window = extras.window if extras.window is not None and extras.window < keys else None
    square = queries == keys and window is None
    if extras.softcap is not None or extras.sinks is not None:
        return _explicit(q, k, v, row.mask(queries, keys, window, q.device), extras)
    mask = None if square else row.mask(queries, keys, window, q.device)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=square, scale=extras.scale, enable_gqa=gqa
    )


def _explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, extras: Extras) -> Tensor:
    """Attend with an explicit softmax, for options that no fused kernel has."""
    share = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(share, dim=1) for x in (k, v))
    scale = extras.scale if extras.scale is not None else q.shape[-1] ** -0.5
    scores = q @ k.transpose(2, 3) * scale
    if extras.softcap is not None:
        scores = extras.softcap * torch.tanh(scores / extras.softcap)
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if extras.sinks is not None:
        sinks = extras.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(-1).to(v.dtype)
    return weights[..., : k.shape[2]] @ v


def _by_varlen(row: PackedRow, query: Tensor, key: Tensor, value: Tensor, extras: Extras) -> Tensor:
    """Attend over all segments in one flash call; prompt keys are gathered per completion."""
    places, queries_at, keys_at, longest_query, longest_key = row.varlen(query.device)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = varlen_attn(
        q.contiguous(),
        k.index_select(0, places),
        v.index_select(0, places),
        cu_seq_q=queries_at,
        cu_seq_k=keys_at,
        max_q=longest_query,
        max_k=longest_key,
        scale=extras.scale,
        window_size=(-1 if extras.window is None else extras.window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None]


AttentionInterface.register(OVER_SDPA, packed_attention)
AttentionInterface.register(OVER_EAGER, packed_attention)
AttentionMaskInterface.register(OVER_SDPA, sdpa_mask)
AttentionMaskInterface.register(OVER_EAGER, eager_mask)
