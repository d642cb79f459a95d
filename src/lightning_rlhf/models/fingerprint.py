"""Which weights were these? A short name that any training changes."""

from __future__ import annotations

import hashlib

import torch

from lightning_rlhf.models import lora
from lightning_rlhf.models.backbone import Backbone

ENTRIES = 1024  # of a tensor that are looked at: training moves every one of them


def fingerprint(backbone: Backbone, role: str) -> str:
    """16 hex digits of the base's and a role's adapter's weights, the same on every device."""
    found = hashlib.sha256()
    model = backbone.model_of(role)
    base = ((n, p) for n, p in model.named_parameters() if ".lora_" not in n)
    tensors = {n.replace(".base_layer.", "."): p for n, p in base}  # as without adapters
    if backbone.roles[role].adapter:
        tensors |= lora.parameters(model, role)
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // ENTRIES)].contiguous().cpu()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(some.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
