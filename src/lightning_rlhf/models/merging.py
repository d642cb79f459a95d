"""Merge an adapter into its base's weights, and restore the same bits afterwards."""

from __future__ import annotations

from contextlib import AbstractContextManager

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lightning_rlhf.functional.autocast import autocast_enabled, without_autocast


class MergedWeights(AbstractContextManager[None]):
    """Inside, the base of every adapted layer holds its weight plus a role's update, rounded once.

    The originals are put back afterwards: subtracting the update would leave the rounding of both.
    A layer gets a new parameter, so that a layer tied to the old one keeps it. The cost is memory
    for one more copy of the adapted weights. Under autocast an fp32 weight is merged in
    autocast's dtype, to which it would be cast at every step.

    Args:
        adapted: the layers that have adapters.
        role: the adapter to merge.
    """

    def __init__(self, adapted: list[LoraLayer], role: str):
        self.adapted = adapted
        self.role = role
        self.originals: list[tuple[nn.Module, nn.Parameter]] = []

    def __enter__(self) -> None:
        reason = why_unmergeable(self.adapted, self.role)
        if reason is not None:
            raise ValueError(f"role {self.role!r} cannot be merged for rollouts: {reason}")
        try:
            for layer in self.adapted:
                if self.role in layer.scaling:
                    self._merge(layer)
        except BaseException:
            self._restore()
            raise

    def _merge(self, layer: LoraLayer) -> None:
        base = layer.get_base_layer()
        weight = base.weight
        self.originals.append((base, weight))
        base.weight = nn.Parameter(_merged(layer, self.role, weight), requires_grad=False)

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _restore(self) -> None:
        while self.originals:
            base, weight = self.originals.pop()
            base.weight = weight


@torch.no_grad()
def _merged(layer: LoraLayer, role: str, weight: Tensor) -> Tensor:
    dtype = weight.dtype
    if isinstance(layer.get_base_layer(), nn.Linear) and autocast_enabled(weight.device):
        dtype = torch.get_autocast_dtype(weight.device.type)
    with without_autocast(weight.device):
        return merged_weight(layer, role, weight.float()).to(dtype)


def merged_weight(layer: LoraLayer, role: str, weight: Tensor) -> Tensor:
    """Add a role's update to a layer's weight in fp32, that of plain LoRA or of DoRA."""
    variant = layer.lora_variant.get(role)
    if variant is not None:
        merged: Tensor = variant.merge_safe(layer, role, weight)
        return merged
    return torch.add(weight, layer.get_delta_weight(role).to(weight))


def why_unmergeable(adapted: list[LoraLayer], role: str) -> str | None:
    """Reason why a role cannot be merged into its base for rollouts; None if it can."""
    for layer in adapted:
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is None:
            return "it adapts fused experts"
        if isinstance(weight, bnb.nn.Params4bit) or not weight.is_floating_point():
            return "quantized weights would round the adapter away"
        if layer.lora_variant.get(role) is not None or layer.lora_bias.get(role):
            return "its adapter is more than plain LoRA"
    return None


def copy_bytes(adapted: list[LoraLayer]) -> int:
    """Bytes that merging takes: one more copy of the adapted weights."""
    weights = [layer.get_base_layer().weight for layer in adapted]
    return sum(w.numel() * w.element_size() for w in weights)
