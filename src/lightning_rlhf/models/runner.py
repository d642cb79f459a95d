"""Run a batch through a causal language model: packed or padded, its logits a tile at a time.

A runner knows no roles: its caller has switched the adapters.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.functional.head import Head, TokenStatistics, head_logprobs, head_statistics
from lightning_rlhf.functional.logprobs import token_logprobs, token_statistics
from lightning_rlhf.models import packing
from lightning_rlhf.models.heads import decoder_of, head_is_plain, head_of
from lightning_rlhf.models.layout import unpacked
from lightning_rlhf.models.offload import activations_on_host

log = logging.getLogger(__name__)


class Runner(NamedTuple):
    """A loaded model, and its capabilities as tested at load."""

    model: PreTrainedModel
    packs: bool  # it takes packed rows
    plain_head: bool  # ``head_of`` gives its logits
    tile: int | None = None  # rows of logits held at a time; None: adapted
    offloads: bool = False  # tensors saved for the backward wait in host memory

    @classmethod
    def of(cls, model: PreTrainedModel, pack: bool, offloads: bool = False) -> Runner:
        """Prepare a model for packed rows if wanted, and test its head; warns if it cannot pack."""
        reason = packing.enable(model) if pack else None
        if reason is not None:
            log.warning(
                "%s runs on padded rows, prompts unshared: %s", type(model).__name__, reason
            )
        return cls(model, pack and reason is None, head_is_plain(model), offloads=offloads)

    def laid_out(self, tokens: TokenBatch) -> TokenBatch:
        """Lay out a batch as this model runs it: packed, or padded if it cannot."""
        return tokens if self.packs else unpacked(tokens)

    def run(self, tokens: TokenBatch, whole: bool = False) -> Any:
        """Run a laid out batch through the decoder, or through the whole model with its logits."""
        decoder = decoder_of(self.model)
        inputs = {"input_ids": tokens.input_ids}
        if "position_ids" in inspect.signature(decoder.forward).parameters:
            inputs["position_ids"] = tokens.position_ids
        part = self.model if whole else decoder
        with activations_on_host() if self.offloads else nullcontext():
            if tokens.groups is not None:
                return packing.run_packed(part, inputs, tokens.groups)
            return part(**inputs, attention_mask=tokens.attention_mask.long(), use_cache=False)

    def hidden(self, tokens: TokenBatch) -> Tensor:
        """Compute the decoder's last hidden states of a laid out batch, flattened: (B T, H)."""
        states: Tensor = self.run(tokens).last_hidden_state
        return states.flatten(0, 1)

    def logits(self, tokens: TokenBatch) -> Tensor:
        """Compute the logits that predict the tokens under the loss mask: (N, V)."""
        tokens = self.laid_out(tokens)
        head = self._head()
        if head is None:
            logits: Tensor = self.run(tokens, whole=True).logits
            return logits.flatten(0, 1)[tokens.predictor_index]
        return head.logits(self.hidden(tokens)[tokens.predictor_index])

    def logprobs(self, tokens: TokenBatch, temperature: float = 1.0) -> Tensor:
        """Compute the log-probs of the tokens under the loss mask: (N,) fp32."""
        head = self._head(temperature)
        if head is None:
            return token_logprobs(self.logits(tokens) / temperature, tokens.target_ids)
        tokens = self.laid_out(tokens)
        return head_logprobs(
            self.hidden(tokens)[tokens.predictor_index], head, tokens.target_ids, self.tile
        )

    def statistics(self, tokens: TokenBatch, temperature: float = 1.0) -> TokenStatistics:
        """Compute log-probs, entropy and expected probability at the trained tokens: (N,) each."""
        head = self._head(temperature)
        if head is None:
            return token_statistics(self.logits(tokens) / temperature, tokens.target_ids)
        tokens = self.laid_out(tokens)
        return head_statistics(
            self.hidden(tokens)[tokens.predictor_index], head, tokens.target_ids, self.tile
        )

    def at_sources(self, tokens: TokenBatch) -> Tensor:
        """Compute the hidden states that predict the tokens under the loss mask: (N, H)."""
        tokens = self.laid_out(tokens)
        return self.hidden(tokens)[tokens.predictor_index]

    def logprobs_and_states(
        self, tokens: TokenBatch, read: TokenBatch, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Compute log-probs (N,), and hidden states at ``read`` (V, H) of the same rows, at once.

        Raises:
            ValueError: the model has an output head of its own kind.
        """
        head = self._head(temperature)
        if head is None:
            raise ValueError(
                f"{type(self.model).__name__} has an output head of its own kind, which cannot "
                'share a forward with a value head: give Critic("adapter")'
            )
        tokens, read = self.laid_out(tokens), self.laid_out(read)
        hidden = self.hidden(tokens)
        logprobs = head_logprobs(hidden[tokens.predictor_index], head, tokens.target_ids, self.tile)
        return logprobs, hidden[read.predictor_index]

    def _head(self, temperature: float = 1.0) -> Head | None:
        return head_of(self.model, temperature) if self.plain_head else None

    def ends(self, tokens: TokenBatch) -> Tensor:
        """Compute the hidden states at each completion's last token: (C, H)."""
        tokens = self.laid_out(tokens)
        return self.hidden(tokens)[tokens.last_index]
