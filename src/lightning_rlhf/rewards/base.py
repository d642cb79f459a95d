"""``Reward``: a source of scores for completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.text.messages import PROMPT_COLUMNS, Prompt, prompt_of


class RewardInputs(NamedTuple):
    """Completions to score; those of one prompt stand together."""

    prompts: list[str]  # C texts, special tokens left out
    completions: list[str]  # C texts, special tokens left out
    rows: list[dict[str, Any]]  # C rows of the data, as they were read
    tokens: list[TokenBatch]  # the same completions, cut into batches that fit
    texts: list[str]  # C prompts with their completions, joined as their tokens are
    prompt_ids: Sequence[list[int]] = ()  # C prompts
    completion_ids: Sequence[list[int]] = ()  # C completions as sampled, with their end token
    finished: Sequence[bool] = ()  # C, False where a completion was cut at its largest length

    def ended_ids(self, eos: int) -> list[list[int]]:
        """Return the C completions with eos after every finished one, as data rows have it.

        A model may stop at another token, such as the end of a turn.
        """
        each = zip(self.completion_ids, self.finished, strict=True)
        return [[*ids, eos] if done and ids[-1:] != [eos] else ids for ids, done in each]

    def conversations(self) -> list[Prompt]:
        """Read the C prompts from their rows, with several turns where a row has several.

        A row without a prompt column keeps its text.
        """
        return [
            prompt_of(row) if any(row.get(k) is not None for k in PROMPT_COLUMNS) else text
            for row, text in zip(self.rows, self.prompts, strict=True)
        ]


class Reward:
    """A source of scores.

    Args:
        name: name in logs.
        weight: factor of its scores in a sum of several rewards.
    """

    def __init__(self, name: str, weight: float):
        self.name = name
        self.weight = weight

    def prepare(self, backbone: Backbone) -> None:
        """Check, before a run starts, that scoring will be possible."""

    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        """Score completions: (C,) fp32."""
        raise NotImplementedError
