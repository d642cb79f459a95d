"""Completions of prompts as rows to read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.models.generation import generate
from lightning_rlhf.models.sampler import HFSampler, Sampling, room


class Table(NamedTuple):
    """Rows of a table, for loggers and files."""

    columns: list[str]
    rows: list[list[Any]]


def decode(backbone: Backbone, ids: list[int]) -> str:
    """Text of token ids, special tokens left out."""
    text = backbone.tokenizer.decode(ids, skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def complete(
    backbone: Backbone, batch: PromptBatch, sampling: Sampling | None = None
) -> list[dict[str, Any]]:
    """One completion of each prompt, sampled from the policy.

    Args:
        backbone: loaded.
        batch: the prompts.
        sampling: of the method; None for up to 128 tokens, or fewer where the model's context ends.
    """
    prompts = [ids.tolist() for ids in batch.prompt_ids]
    if sampling is None:
        sampling = Sampling(max_new_tokens=room(backbone, prompts, 128))
    answers = HFSampler().sample(backbone, POLICY, prompts, replace(sampling, num_samples=1))
    return [
        {
            "prompt": decode(backbone, prompt),
            "completion": decode(backbone, answer.ids),
            "finished": answer.finished,
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def greedy_table(backbone: Backbone, prompts: list[list[int]], max_new_tokens: int) -> Table:
    """Greedy completions of prompts, a column for every role that has no scalar head."""
    roles = [name for name in backbone.roles if name not in backbone.heads]
    answers = [generate(backbone, role, prompts, max_new_tokens, temperature=0.0) for role in roles]
    rows = [
        [decode(backbone, prompt), *(decode(backbone, a.ids) for a in of_roles)]
        for prompt, *of_roles in zip(prompts, *answers, strict=True)
    ]
    return Table(["prompt", *roles], rows)
