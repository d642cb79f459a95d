"""A rollout: sampled completions with their scores and advantages, cut into update batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_rlhf.batches import Counts, PromptBatch, TokenBatch, UpdateBatch, to_device
from lightning_rlhf.data.collate import completion_batch, with_end_positions
from lightning_rlhf.functional.ppo import KLEstimator, token_kl
from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.models.sampler import Sample
from lightning_rlhf.rewards.base import RewardInputs


class SampledBatch(NamedTuple):
    """C sampled completions of G prompts, those of one prompt together."""

    prompts: list[list[int]]  # G
    rows: list[dict[str, Any]]  # G rows of the data
    samples: list[Sample]  # C

    def tokens(self, prompts: Sequence[int], device: torch.device) -> TokenBatch:
        """Lay out the completions of some prompts, given by their indices."""
        ids = [sample.ids for sample in self.samples]
        return to_device(completion_batch(self.prompts, ids, prompts), device)

    def reward_inputs(
        self, minibatches: list[TokenBatch], decode: Callable[[list[int]], str]
    ) -> RewardInputs:
        """Decode completions for the rewards.

        Args:
            minibatches: the same completions, cut into batches that fit.
            decode: token ids to text.
        """
        k = len(self.samples) // len(self.prompts)
        return RewardInputs(
            prompts=[text for text in map(decode, self.prompts) for _ in range(k)],
            completions=[decode(sample.ids) for sample in self.samples],
            rows=[row for row in self.rows for _ in range(k)],
            tokens=minibatches,
            texts=[decode(self.prompts[i // k] + s.ids) for i, s in enumerate(self.samples)],
            prompt_ids=[ids for ids in self.prompts for _ in range(k)],
            completion_ids=[sample.ids for sample in self.samples],
            finished=[sample.finished for sample in self.samples],
        )


class RoleOutputs(NamedTuple):
    """Outputs of every role over sampled completions, without gradient."""

    logprobs: Tensor  # (N,) of the policy
    reference: Tensor  # (N,)
    values: Tensor | None = None  # (V,) of the critic

    @classmethod
    def concatenate(cls, parts: Sequence[RoleOutputs]) -> RoleOutputs:
        """Join the outputs of several minibatches."""
        values = [part.values for part in parts if part.values is not None]
        return cls(
            torch.cat([part.logprobs for part in parts]),
            torch.cat([part.reference for part in parts]),
            torch.cat(values) if values else None,
        )


class Rollout(NamedTuple):
    """C completions of G prompts, those of one prompt together, rows padded to L tokens."""

    prompt_ids: list[list[int]]  # G
    completion_ids: list[list[int]]  # C
    finished: Tensor  # (C,) bool
    scores: Tensor  # (C,) weighted sum of the rewards' raw scores
    logprobs: Tensor  # (C, L) of the policy that sampled
    reference: Tensor  # (C, L)
    advantages: Tensor  # (C, L), or (C,) where a completion is one action
    order: list[list[int]]  # the prompts of each update
    values: Tensor | None = None  # (C, L + 1) of the critic
    returns: Tensor | None = None  # (C, L + 1)
    value_lengths: list[int] | None = None  # C, positions where the critic was read
    everywhere: list[list[int]] | None = None  # ``Counts`` of each update in all processes

    @classmethod
    def assemble(
        cls,
        sampled: SampledBatch,
        *,
        order: list[list[int]],
        outputs: RoleOutputs,
        scores: Sequence[Tensor],
        weights: Sequence[float],
        score_after_eos: list[bool],
        old_logprobs: Literal["trainer", "sampler"],
    ) -> Rollout:
        """Lay flat outputs out as rows; the advantages are still 0.

        Args:
            sampled: C completions of G prompts.
            order: the prompts of each update.
            outputs: over all C completions, in order.
            scores: (C,) of each reward.
            weights: of the rewards.
            score_after_eos: C, whether the critic was read at the end token too.
            old_logprobs: whose log-probs the ratios are taken to.
        """
        samples = sampled.samples
        lengths = [len(sample.ids) for sample in samples]
        width, device = max(lengths), outputs.logprobs.device
        own = outputs.logprobs
        if old_logprobs == "sampler":
            own = sampler_logprobs(samples, device)
        values, value_lengths = None, None
        if outputs.values is not None:
            value_lengths = [n + extra for n, extra in zip(lengths, score_after_eos, strict=True)]
            values = as_rows(outputs.values, value_lengths, width + 1)
        logprobs = as_rows(own, lengths, width)
        return cls(
            prompt_ids=sampled.prompts,
            completion_ids=[sample.ids for sample in samples],
            finished=torch.tensor([sample.finished for sample in samples], device=device),
            scores=torch.tensor(weights, device=device) @ torch.stack(list(scores)),
            logprobs=logprobs,
            reference=as_rows(outputs.reference, lengths, width),
            advantages=torch.zeros_like(logprobs),
            order=order,
            values=values,
            value_lengths=value_lengths,
        )

    @property
    def samples(self) -> int:
        """Number of completions per prompt."""
        return len(self.completion_ids) // len(self.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each completion."""
        return [len(ids) for ids in self.completion_ids]

    @property
    def group(self) -> Tensor:
        """(C,) int64, the prompt of each completion."""
        prompts = torch.arange(len(self.prompt_ids), device=self.logprobs.device)
        return prompts.repeat_interleave(self.samples)

    def kl(self, estimator: KLEstimator) -> Tensor:
        """(C, L) KL of the policy that sampled to the reference, nats per token."""
        kl = token_kl(self.logprobs, self.reference, estimator)
        return kl.masked_fill(~row_mask(self.lengths, kl), 0.0)

    def among(self, processes: Processes) -> Rollout:
        """The same rollout, its updates being parts of those of all processes."""
        if processes.size == 1:
            return self
        counts = torch.tensor([self._counts(prompts) for prompts in self.order])
        counts = processes.stack(counts.to(self.logprobs.device)).sum(0)
        return self._replace(everywhere=counts.tolist())

    def _counts(self, prompts: Sequence[int]) -> Counts:
        chosen = self._completions(prompts)
        values = sum(self.value_lengths[c] for c in chosen) if self.value_lengths else 0
        return Counts(sum(self.lengths[c] for c in chosen), len(chosen), values)

    def _completions(self, prompts: Sequence[int]) -> list[int]:
        return [p * self.samples + k for p in prompts for k in range(self.samples)]

    def batch(self, update: int) -> UpdateBatch:
        """Cut out the batch of one update, on the rollout's device."""
        prompts = self.order[update]
        tokens = completion_batch(self.prompt_ids, self.completion_ids, prompts)
        tokens = to_device(tokens, self.logprobs.device)
        chosen = self._completions(prompts)
        mask = row_mask([self.lengths[c] for c in chosen], self.logprobs)
        advantages = self.advantages[chosen]
        batch = UpdateBatch(
            tokens=tokens,
            logprobs=self.logprobs[chosen][mask],
            reference=self.reference[chosen][mask],
            advantages=advantages[mask] if advantages.dim() == 2 else advantages,
            everywhere=Counts(*self.everywhere[update]) if self.everywhere else None,
        )
        if self.values is None or self.returns is None or self.value_lengths is None:
            return batch
        lengths = [self.value_lengths[c] for c in chosen]
        mask = row_mask(lengths, self.values)
        at_end = [n > self.lengths[c] for n, c in zip(lengths, chosen, strict=True)]
        return batch._replace(
            critic=with_end_positions(tokens, at_end),
            values=self.values[chosen][mask],
            returns=self.returns[chosen][mask],
        )

    def state(self) -> dict[str, Any]:
        """Tensors on the CPU and numbers, for a checkpoint."""
        fields = self._asdict()
        return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in fields.items()}

    @classmethod
    def of_state(cls, state: dict[str, Any], device: torch.device) -> Rollout:
        """Rebuild a rollout from its ``state``."""
        fields: dict[str, Any] = {
            k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()
        }
        return cls(**fields)


def shuffled(batch: Any, method: str) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Shuffle prompts and their rows, so that the first pass can take them in order.

    Raises:
        ValueError: completions were given, which ``method`` samples itself.
    """
    if not isinstance(batch, PromptBatch):
        raise ValueError(
            f"{method} samples its own completions: give it PromptData, not {type(batch).__name__}"
        )
    picked = torch.randperm(len(batch.prompt_ids)).tolist()
    return (
        [batch.prompt_ids[i].tolist() for i in picked],
        [json.loads(batch.rows[i]) for i in picked],
    )


def as_rows(values: Tensor, lengths: Sequence[int], width: int) -> Tensor:
    """Lay (N,) values out as (C, width) rows, zeros after each row's end."""
    rows = pad_sequence(list(values.split(list(lengths))), batch_first=True)
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def row_mask(lengths: Sequence[int], like: Tensor) -> Tensor:
    """(C, L) bool, True on the first ``lengths[c]`` tokens of row c."""
    n = torch.tensor(list(lengths), device=like.device)
    return torch.arange(like.shape[1], device=like.device) < n[:, None]


def sampler_logprobs(samples: Sequence[Sample], device: torch.device) -> Tensor:
    """(N,) log-probs as the sampler gave them."""
    return torch.tensor([lp for sample in samples for lp in sample.logprobs], device=device)
