"""Batches that travel from the data room to the modules: named tuples, shapes in comments.

A *completion* is a run of tokens under the loss mask, conditioned on its prompt. Rows of tokens may
be laid out in any way: one padded sequence per row, or several prompts packed with the completions
that share them. Everything above reads a batch through its four flat index tensors, so that no
module knows the layout.

Lightning moves nested named tuples between devices unchanged. B rows, T tokens per row, N tokens
under the loss mask, C completions, P pairs, G prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

Groups = tuple[tuple[int, ...], ...]  # lengths (prompt, completion, completion, ...) of each group


class TokenBatch(NamedTuple):
    """Rows of tokens, and which of them the loss mask keeps."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) bool, True on real tokens
    position_ids: Tensor  # (B, T) int64, counted from each sequence's own start
    # (N,) int64, flat position whose hidden state predicts target n: the shift by one, done once
    predictor_index: Tensor
    target_ids: Tensor  # (N,) int64, the tokens under the loss mask
    completion_index: Tensor  # (N,) int64, the completion each target belongs to, ascending
    last_index: Tensor  # (C,) int64, flat position of each completion's last token: its score
    groups: Groups | None = None  # composition of one packed row (B = 1); None: padded rows

    @property
    def completions(self) -> int:
        """Number of completions in the batch."""
        return len(self.last_index)


def cut_by_budget(costs: Iterable[int], budget: int) -> list[range]:
    """Cut rows into runs of neighbors, as many rows to a run as the budget holds; one at least.

    Args:
        costs: of each row, in order.
        budget: the sum of costs that a run may have.

    Returns:
        The rows of each run, by index.
    """
    starts: list[int] = []
    rows, room = 0, 0
    for row, cost in enumerate(costs):
        if cost > room or not starts:
            starts.append(row)
            room = budget
        room -= cost
        rows = row + 1
    return [range(a, b) for a, b in zip(starts, [*starts[1:], rows], strict=False)]


def to_device(tokens: TokenBatch, device: torch.device) -> TokenBatch:
    """A batch of tokens on a device."""
    moved: TokenBatch = move_data_to_device(tokens, device)
    return moved


class PreferenceBatch(NamedTuple):
    """Pairs of completions to one prompt each, the better side named."""

    tokens: TokenBatch  # C = 2P
    chosen: Tensor  # (P,) int64, a completion
    rejected: Tensor  # (P,) int64
    label: Tensor | None  # (P,) probability that "chosen" is better; None: all certain
    margin: Tensor | None  # (P,) how much better; None: not said
    digest: Tensor  # (C, 2) int64, 128 bits naming prompt + completion: the key of cached log-probs


class UnpairedBatch(NamedTuple):
    """Completions labeled one by one."""

    tokens: TokenBatch
    label: Tensor  # (C,) probability that the completion is good: 1 a thumb up, 0 a thumb down


class RankingBatch(NamedTuple):
    """K completions to one prompt each, ranked or rated."""

    tokens: TokenBatch
    group: Tensor  # (C,) int64, the prompt of each completion, 0..G-1
    rank: Tensor  # (C,) int64, lower is better, equal is a tie
    rating: Tensor | None  # (C,) the ratings behind the ranks, where there were any


class PromptBatch(NamedTuple):
    """Prompts to complete; ragged, since the sampler chooses the layout."""

    prompt_ids: list[Tensor]  # B tensors (T_b,) int64
    rows: list[str]  # B rows of the source as JSON: what a reward may want to know beside the text


class Counts(NamedTuple):
    """Numbers of things that an update's means are taken over."""

    tokens: int  # N
    completions: int  # C
    values: int = 0  # V


class UpdateBatch(NamedTuple):
    """Sampled completions and what was found out about them: what one online update learns from."""

    tokens: TokenBatch  # N tokens of C completions
    logprobs: Tensor  # (N,) of the policy that sampled
    reference: Tensor  # (N,) of the reference
    advantages: Tensor  # (N,); of a method that takes a completion for one action (C,)
    critic: TokenBatch | None = None  # ``tokens`` with the V places where the critic is read
    values: Tensor | None = None  # (V,) of the critic at the time of the rollout
    returns: Tensor | None = None  # (V,)
    everywhere: Counts | None = None  # in this update of all processes; None: this one is all

    @property
    def counts(self) -> Counts:
        values = 0 if self.values is None else len(self.values)
        return Counts(len(self.tokens.target_ids), self.tokens.completions, values)

    def relative_share(self, of: str, beside: str) -> float:
        """This process's share of all things of one kind, over its share of those of another.

        A loss is weighed by one share; a term of it that is a mean over other things needs this.
        """
        own, all_ = self.counts, self.everywhere
        if all_ is None:
            return 1.0
        share = {kind: getattr(own, kind) / getattr(all_, kind) for kind in (of, beside)}
        return share[of] / share[beside]
