"""Log-probabilities of given tokens from hidden states, without holding all the logits.

Logits of N tokens take 10 N V bytes in a plain training step: for a small model with a large
vocabulary that is more than everything else together. Here they exist a tile of rows at a time.

With a frozen head the gradient is formed in the forward, while the tile exists: any loss of
log-probs ``l`` has ``dL/dh = dL/dl * (onehot - p) W``, two matrix products instead of three. A
trained head, or a loss of more than log-probs, recomputes each tile in the backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lightning_rlhf.functional.autocast import autocast_enabled, without_autocast
from lightning_rlhf.functional.logprobs import TokenStatistics, token_statistics

TILE_BYTES = {"cpu": 24 * 2**20}  # near a CPU's caches; elsewhere only launches count
TILE_BYTES_ELSEWHERE = 128 * 2**20


class Head(NamedTuple):
    """``cap * tanh(scale * (h W^T + b) / cap) / temperature``."""

    weight: Tensor  # (V, H)
    bias: Tensor | None = None  # (V,)
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @property
    def trained(self) -> bool:
        """True if the head itself takes gradients."""
        bias = self.bias is not None and self.bias.requires_grad
        return torch.is_grad_enabled() and (self.weight.requires_grad or bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) to (N, V) in the dtype of the product."""
        return self.bend(torch.nn.functional.linear(hidden, self.weight, self.bias))

    def bend(self, product: Tensor) -> Tensor:
        """Apply scale, soft cap and temperature to the matrix product."""
        z = product if self.scale == 1.0 else product * self.scale
        z = z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)
        return z if self.temperature == 1.0 else z / self.temperature

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of ``bend``, computed from its result."""
        slope = self.scale / self.temperature
        if self.softcap is None:
            return slope
        return slope * (1 - (logits * (self.temperature / self.softcap)) ** 2)


def head_logprobs(hidden: Tensor, head: Head, targets: Tensor, tile: int | None = None) -> Tensor:
    """Compute ``log p(target)`` for every hidden state.

    Products run in the head's dtype or autocast's, everything after them in fp32.

    Args:
        hidden: (N, H).
        head: frozen or trained.
        targets: (N,) token ids.
        tile: rows of logits to hold at a time; None adapts them to vocabulary and device.

    Returns:
        (N,) fp32.
    """
    if head.trained:
        return head_statistics(hidden, head, targets, tile).logprob
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    hidden, head = _in_compute_dtype(hidden, head)
    with without_autocast(hidden.device):
        logprobs: Tensor = _FrozenHead.apply(hidden, head, targets, tile, with_gradient)
    return logprobs


def head_statistics(
    hidden: Tensor, head: Head, targets: Tensor, tile: int | None = None
) -> TokenStatistics:
    """Like ``head_logprobs``, with entropy and expected probability, all differentiable.

    Args:
        hidden: (N, H).
        head: frozen or trained.
        targets: (N,) token ids.
        tile: rows of logits to hold at a time.
    """
    hidden, head = _in_compute_dtype(hidden, head)
    rows = tile_rows(len(hidden), len(head.weight), hidden.device) if tile is None else tile
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    with without_autocast(hidden.device):
        found = [
            checkpoint(_statistics, h, head, t, use_reentrant=False, preserve_rng_state=False)
            for h, t in pieces
        ]
    return TokenStatistics(*(torch.cat(column) for column in zip(*found, strict=True)))


def tile_rows(n: int, vocabulary: int, device: torch.device) -> int:
    """Number of rows per tile of fp32 logits: n rows in equal parts that fit the device's tile."""
    budget = TILE_BYTES.get(device.type, TILE_BYTES_ELSEWHERE)
    most = max(16, budget // (4 * vocabulary))
    tiles = max(1, -(-n // most))
    return max(1, -(-n // tiles))


def _in_compute_dtype(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Cast once instead of per tile, since autocast does not cache the cast of a frozen weight."""
    dtype = head.weight.dtype
    if autocast_enabled(hidden.device):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    bias = None if head.bias is None else head.bias.to(dtype)
    return hidden.to(dtype), head._replace(weight=head.weight.to(dtype), bias=bias)


def _statistics(hidden: Tensor, head: Head, targets: Tensor) -> TokenStatistics:
    return token_statistics(head.logits(hidden), targets)


class _FrozenHead(torch.autograd.Function):
    """Log-probs, and their gradient to the hidden states while each tile exists."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Head, targets: Tensor, tile: int | None, gradient: bool
    ) -> Tensor:
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradients = torch.empty_like(hidden) if gradient else None
        for rows, logits, product in _tiles(hidden, head, targets, tile):
            slope = head.slope(logits) if gradient else 1.0  # before the logits are gone
            logprobs[rows], total = _to_odds(logits, targets[rows])
            if gradients is not None:
                product.copy_(_to_gradient(logits, targets[rows], total).mul_(slope))
                torch.mm(product, head.weight, out=gradients[rows])
        if gradients is not None:
            ctx.save_for_backward(gradients)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return (upstream[:, None] * gradients).to(gradients.dtype), None, None, None, None


def _tiles(
    hidden: Tensor, head: Head, targets: Tensor, tile: int | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield each tile's rows, its logits in fp32, and a buffer of its shape in the compute dtype.

    All tiles share the two buffers: on a CPU, fresh memory costs more than arithmetic.
    """
    n, vocabulary = len(hidden), len(head.weight)
    size = tile_rows(n, vocabulary, hidden.device) if tile is None else tile
    wide = torch.empty(min(n, size), vocabulary, dtype=torch.float32, device=hidden.device)
    narrow = wide if hidden.dtype == wide.dtype else torch.empty_like(wide, dtype=hidden.dtype)
    for start in range(0, n, size):
        rows = slice(start, min(n, start + size))
        logits, product = (buffer[: rows.stop - start] for buffer in (wide, narrow))
        if hidden.is_cuda and hidden.dtype != wide.dtype:
            torch.mm(hidden[rows], head.weight.T, out_dtype=wide.dtype, out=logits)
        else:
            torch.mm(hidden[rows], head.weight.T, out=product)
            logits.copy_(product)
            if hidden.dtype != wide.dtype:
                _exact_target(logits, hidden[rows], head.weight, targets[rows])
        if head.bias is not None:
            logits += head.bias
        yield rows, head.bend(logits), product


def _exact_target(logits: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Write the targets' logits unrounded, on devices whose product is not in fp32.

    A confident token's gradient is as large as 1 - p. Rounding its own large logit to bf16 changes
    that by up to a tenth; the rounding of the many small logits averages out.
    """
    exact = (hidden.float() * weight[targets].float()).sum(-1)
    logits.scatter_(1, targets[:, None], exact[:, None])


def _to_odds(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Turn fp32 logits into odds against the largest, in place, without the target's own.

    No two nearly equal numbers are subtracted: a confident token's 1 - p is the sum of the others.

    Returns:
        The targets' log-probs (N,), and the sum of all odds (N, 1).
    """
    at = targets[:, None]
    top = logits.amax(-1, keepdim=True)
    own = logits.gather(1, at) - top
    others = logits.sub_(top).exp_().scatter_(1, at, 0.0).sum(-1, keepdim=True)
    # the largest odds are 1: the target's, whose expm1 is then 0, or some of the others'
    return (own - torch.log1p(others + torch.expm1(own))).squeeze(1), own.exp() + others


def _to_gradient(odds: Tensor, targets: Tensor, total: Tensor) -> Tensor:
    """Turn odds into ``onehot - p``, in place."""
    others = odds.sum(-1, keepdim=True)
    return odds.div_(-total).scatter_(1, targets[:, None], others / total)
