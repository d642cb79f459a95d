"""Heads: from a hidden state to a score, a value, or the model's logits."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.functional.autocast import without_autocast
from lightning_rlhf.functional.head import Head

log = logging.getLogger(__name__)


class ScalarHead(nn.Module):
    """A linear map from a hidden state to one number, in fp32 over a base of any dtype.

    In bf16 at a small learning rate a head does not move at all. Initialized N(0, 1/sqrt(d + 1)),
    as in summarization from feedback (arXiv 2009.01325), so that first scores are of order one.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, hidden_size, dtype=torch.float32))
        nn.init.normal_(self.weight, std=(hidden_size + 1) ** -0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., H) to (...), in fp32 also under autocast."""
        with without_autocast(hidden.device):
            return (hidden.float() @ self.weight.float().T).squeeze(-1)


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a causal LM that computes its hidden states."""
    decoder = model.get_decoder()
    if decoder is model or not isinstance(decoder, PreTrainedModel):
        decoder = model.model  # Llama 4's text model gives itself, ModernBERT its output layer
    assert isinstance(decoder, PreTrainedModel)
    return decoder


def head_of(model: PreTrainedModel, temperature: float = 1.0) -> Head | None:
    """Describe a causal LM's output head, with its scale and soft cap.

    None if its output layer is more than a linear map: adapted, or 4-bit.

    Args:
        model: the causal LM.
        temperature: divides the logits.
    """
    output = model.get_output_embeddings()
    if type(output) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return Head(output.weight, output.bias, scale, softcap, temperature)


@torch.no_grad()
def head_is_plain(model: PreTrainedModel, tolerance: float = 1e-2) -> bool:
    """Test on three tokens whether ``head_of`` gives the model's own logits."""
    if model.device.type == "meta":
        return True  # a model without data cannot be tested
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    whole = model(input_ids=ids, use_cache=False).logits.float()
    hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    head = head_of(model)
    if head is not None:
        ours = head.logits(hidden).float()
        within = tolerance * whole.abs().max()
        if ours.shape == whole.shape and (ours - whole).abs().max() <= within:
            return True
    log.warning(
        "%s has an output head of its own kind: log-probs take the logits of every token",
        type(model).__name__,
    )
    return False
