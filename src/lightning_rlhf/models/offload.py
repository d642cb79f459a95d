"""Keep parts of a model in host memory while it trains on a card."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

Offload = Literal["embedding", "activations"]
# the device it belongs on; the host tensor, or on meta its shape and dtype
Parked = tuple[torch.device, Tensor | tuple[torch.Size, torch.dtype]]
SMALLEST = 2**20  # bytes; smaller tensors are not worth the transfer


class HostEmbedding(nn.Module):
    """A frozen embedding table in host memory: only the rows looked up are transferred.

    The table is neither a parameter nor a buffer, so that nothing moves it to the card.
    """

    def __init__(self, table: nn.Embedding):
        super().__init__()
        weight = table.weight.detach()
        self._held = (weight if weight.is_meta else weight.cpu(),)

    @property
    def weight(self) -> Tensor:
        """The table: (V, H)."""
        return self._held[0]

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look up ids (B, T); returns (B, T, H) on their device."""
        if input_ids.is_meta:
            shape = (*input_ids.shape, self.weight.shape[1])
            return torch.empty(shape, dtype=self.weight.dtype, device="meta")
        return F.embedding(input_ids.cpu(), self.weight).to(input_ids.device)


def embedding_to_host(model: PreTrainedModel) -> None:
    """Move a model's input embeddings to host memory.

    Raises:
        ValueError: the head shares the table, or the layer does more than look up.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    name = type(model).__name__
    if head is not None and head.weight is table.weight:
        raise ValueError(
            f'offload="embedding" cannot help here: the head of this {name} shares the table; '
            "leave it out"
        )
    if type(table) is not nn.Embedding:
        raise ValueError(
            f'offload="embedding" knows plain tables only: {name} has a {type(table).__name__}'
        )
    model.set_input_embeddings(HostEmbedding(table))


def activations_on_host() -> AbstractContextManager[None]:
    """Keep the tensors that a forward saves for its backward in host memory.

    Under checkpointing that is the input of each layer: 2 bytes per hidden unit and token, moved to
    the host and back once per step.
    """
    return saved_tensors_hooks(_park, _fetch)


def _park(tensor: Tensor) -> Tensor | Parked:
    """Move a saved tensor to the host, unless it is a weight, small, or there already."""
    kept = isinstance(tensor, nn.Parameter) or not tensor.is_floating_point()
    if kept or tensor.device.type == "cpu" or tensor.nbytes < SMALLEST:
        return tensor
    if tensor.is_meta:  # a memory plan: keep the shape only
        return tensor.device, (tensor.shape, tensor.dtype)
    host = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
    return tensor.device, host.copy_(tensor)


def _fetch(parked: Tensor | Parked) -> Tensor:
    if isinstance(parked, Tensor):
        return parked
    device, held = parked
    if isinstance(held, Tensor):
        return held.to(device, non_blocking=True)
    shape, dtype = held
    return torch.empty(shape, dtype=dtype, device=device)
