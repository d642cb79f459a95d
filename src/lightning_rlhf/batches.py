"""What travels from the data floor to the modules: named tuples of tensors, shapes in comments.

A *completion* is a run of tokens that counts, seen after its prompt. Rows of tokens may be laid
out in any way (one padded sequence to a row, or several prompts packed with the completions that
share them): everything above reads a batch through ``source``, ``target``, ``sequence`` and
``last``, which name places in the flattened rows, so that no module knows the layout.

Lightning moves nested named tuples between devices unchanged. B rows, T tokens to a row, N tokens
that count, C completions, P pairs, G prompts.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Groups = tuple[tuple[int, ...], ...]  # lengths (prompt, completion, completion, ...) of each group


class TokenBatch(NamedTuple):
    """Rows of tokens, and the tokens among them that count."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) bool, True on real tokens
    position_ids: Tensor  # (B, T) int64, counted from each sequence's own start
    source: (
        Tensor  # (N,) flat place of the token that predicts target n: the shift by one, done once
    )
    target: Tensor  # (N,) int64, the tokens that count
    sequence: Tensor  # (N,) int64, the completion each target belongs to, ascending
    last: Tensor  # (C,) flat place of each completion's last token, where a score is read
    groups: Groups | None = None  # how one packed row (B = 1) is made up; None: padded rows

    @property
    def completions(self) -> int:
        """How many completions the batch holds."""
        return len(self.last)


class PreferenceBatch(NamedTuple):
    """Pairs of completions to one prompt each, the better side named."""

    tokens: TokenBatch  # C = 2P
    chosen: Tensor  # (P,) int64, a completion
    rejected: Tensor  # (P,) int64
    label: Tensor | None  # (P,) probability that "chosen" is better; None: all certain
    margin: Tensor | None  # (P,) how much better; None: not said
    digest: Tensor  # (C, 2) int64, 128 bits naming prompt + completion: the key of cached log-probs


class FeedbackBatch(NamedTuple):
    """Completions judged one by one."""

    tokens: TokenBatch
    label: Tensor  # (C,) probability that the completion is good: 1 a thumb up, 0 a thumb down


class RankingBatch(NamedTuple):
    """K completions to one prompt each, ranked or rated."""

    tokens: TokenBatch
    group: Tensor  # (C,) int64, the prompt of each completion, 0..G-1
    rank: Tensor  # (C,) int64, lower is better, equal is a tie
    rating: Tensor | None  # (C,) the ratings behind the ranks, where there were any


class PromptBatch(NamedTuple):
    """Prompts to complete. Ragged on purpose: whoever generates lays them out."""

    prompt_ids: list[Tensor]  # B tensors (T_b,) int64
    rows: list[str]  # B rows of the source as JSON: what a reward may want to know beside the text


class UpdateBatch(NamedTuple):
    """Sampled completions and what was found out about them: what one online update learns from."""

    tokens: TokenBatch  # N tokens of C completions
    logprobs: Tensor  # (N,) of the policy that sampled
    reference: Tensor  # (N,) of the reference
    advantages: Tensor  # (N,); of a method that takes a completion for one action (C,)
    critic: TokenBatch | None = None  # ``tokens`` with the V places where the critic is read
    values: Tensor | None = None  # (V,) of the critic at the time of the rollout
    returns: Tensor | None = None  # (V,)
