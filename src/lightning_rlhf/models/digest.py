"""A digest that tells one set of weights from another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLES = 64  # entries of each tensor that are hashed in their order


def weights_digest(weights: Mapping[str, Tensor]) -> bytes:
    """Hash names, shapes and every bit of some weights, the same on every device.

    Samples alone would miss a step that moves few entries: on an embedding, or in bf16 at a small
    learning rate. So all bits are summed, at memory speed wherever the weights lie. The samples
    tell apart tensors with the same entries in another order.

    Returns:
        16 bytes.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(weights.items()):
        hasher.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        state = getattr(weight, "quant_state", None)
        scales = [] if state is None else [state.absmax]  # 4-bit codes are relative to them
        for tensor in (weight.data, *scales):
            flat = tensor.contiguous().flatten()
            hasher.update(_bytes(flat[:: max(1, flat.numel() // SAMPLES)]))
            bits = flat.view(torch.uint8)
            if bits.storage_offset() % 8:
                bits = bits.clone()
            whole = len(bits) // 8 * 8
            hasher.update(_bytes(bits[:whole].view(torch.int64).sum()[None]))
            hasher.update(_bytes(bits[whole:]))
    return hasher.digest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
