"""A rollout: what was sampled, and what is known of it; cut into the batches of its updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_rlhf.batches import UpdateBatch, to_device
from lightning_rlhf.data.collate import completion_batch, with_end_positions
from lightning_rlhf.functional.ppo import KLEstimator, token_kl


class Rollout(NamedTuple):
    """C completions of G prompts, those of one prompt together, rows padded to L tokens."""

    prompt_ids: list[list[int]]  # G
    completion_ids: list[list[int]]  # C
    finished: Tensor  # (C,) bool
    scores: Tensor  # (C,) as the rewards gave them, weighted
    logprobs: Tensor  # (C, L) of the policy that sampled
    reference: Tensor  # (C, L)
    advantages: Tensor  # (C, L), or (C,) where a completion is one action
    order: list[list[int]]  # the prompts of each update
    values: Tensor | None = None  # (C, L + 1) of the critic
    returns: Tensor | None = None  # (C, L + 1)
    value_lengths: list[int] | None = None  # C, places where the critic was read

    @property
    def samples(self) -> int:
        """Completions to a prompt."""
        return len(self.completion_ids) // len(self.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(ids) for ids in self.completion_ids]

    def kl(self, estimator: KLEstimator) -> Tensor:
        """(C, L) nats per token between the policy that sampled and the reference."""
        kl = token_kl(self.logprobs, self.reference, estimator)
        return kl.masked_fill(~row_mask(self.lengths, kl), 0.0)

    def batch(self, update: int) -> UpdateBatch:
        """What one update learns from, on the device of what is known."""
        prompts = self.order[update]
        tokens = completion_batch(self.prompt_ids, self.completion_ids, prompts)
        tokens = to_device(tokens, self.logprobs.device)
        chosen = [p * self.samples + k for p in prompts for k in range(self.samples)]
        mask = row_mask([self.lengths[c] for c in chosen], self.logprobs)
        advantages = self.advantages[chosen]
        known = UpdateBatch(
            tokens=tokens,
            logprobs=self.logprobs[chosen][mask],
            reference=self.reference[chosen][mask],
            advantages=advantages[mask] if advantages.dim() == 2 else advantages,
        )
        if self.values is None or self.returns is None or self.value_lengths is None:
            return known
        lengths = [self.value_lengths[c] for c in chosen]
        mask = row_mask(lengths, self.values)
        after = [n > self.lengths[c] for n, c in zip(lengths, chosen, strict=True)]
        return known._replace(
            critic=with_end_positions(tokens, after),
            values=self.values[chosen][mask],
            returns=self.returns[chosen][mask],
        )

    def state(self) -> dict[str, Any]:
        """Tensors and numbers, as a checkpoint may hold them."""
        fields = self._asdict()
        return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in fields.items()}

    @classmethod
    def of_state(cls, state: dict[str, Any], device: torch.device) -> Rollout:
        """The reverse of ``state``."""
        fields: dict[str, Any] = {
            k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()
        }
        return cls(**fields)


def as_rows(values: Tensor, lengths: Sequence[int], width: int) -> Tensor:
    """(N,) to (C, width), zeros behind each row's end."""
    rows = pad_sequence(list(values.split(list(lengths))), batch_first=True)
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def row_mask(lengths: Sequence[int], like: Tensor) -> Tensor:
    """(C, L) bool: the first tokens of each row, so many as it is long."""
    n = torch.tensor(list(lengths), device=like.device)
    return torch.arange(like.shape[1], device=like.device) < n[:, None]
