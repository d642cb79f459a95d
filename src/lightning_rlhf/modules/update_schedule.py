"""The updates made on one rollout."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class UpdateSchedule:
    """How often the policy is updated on one rollout, and how far it may move.

    Attributes:
        epochs: passes over a rollout.
        minibatches: optimizer steps (or micro-batches) per pass.
        clip: of the ratio to the policy that sampled.
        dual_clip: bound of a loss with negative advantage, above 1; None: none.
        entropy: weight of the entropy bonus, nats per token; it costs a third matrix product.
        target_kl: the remaining updates of a rollout are skipped once the policy has moved this far
            from its start, in nats per token (approximate); None: never.
        old_logprobs: "trainer" computes them again in the forward that trains, so that the first
            ratio is 1; "sampler" takes the sampler's.
    """

    epochs: int = 4
    minibatches: int = 1
    clip: float = 0.2
    _: KW_ONLY
    dual_clip: float | None = None
    entropy: float = 0.0
    target_kl: float | None = None
    old_logprobs: Literal["trainer", "sampler"] = "trainer"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ValueError(
                f"updates have {self.epochs} epochs and {self.minibatches} minibatches: give 1 or "
                "more of each"
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip is {self.dual_clip}: give a bound above 1, or null")

    @property
    def per_rollout(self) -> int:
        """Number of updates on one rollout."""
        return self.epochs * self.minibatches

    def split(self, prompts: int) -> list[list[int]]:
        """Assign prompts to updates: the first pass in order, the others shuffled.

        Returns:
            For each update, the indices of its prompts.

        Raises:
            ValueError: fewer prompts than minibatches.
        """
        if prompts < self.minibatches:
            raise ValueError(
                f"a batch of {prompts} prompts cannot be cut into {self.minibatches} minibatches: "
                "raise the data's batch_size, or lower updates.minibatches"
            )
        parts: list[list[int]] = []
        for epoch in range(self.epochs):
            rows = torch.randperm(prompts) if epoch else torch.arange(prompts)
            parts += [part.tolist() for part in rows.tensor_split(self.minibatches)]
        return parts
