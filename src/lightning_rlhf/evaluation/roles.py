"""Evaluate a trained role: its KL from the reference, its accuracy on pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PreferenceBatch, to_device
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import Sample


@torch.no_grad()
def sampled_kl(
    backbone: Backbone,
    role: str,
    reference: str,
    prompts: Sequence[list[int]],
    completions: Sequence[Sample],
    batch_size: int = 64,
) -> float:
    """Estimate ``E_role[log role - log reference]`` in nats per answer from samples (k1).

    It is unbiased only for plain samples of ``role`` at temperature 1. It is then negative only by
    chance.

    Raises:
        ValueError: not one completion to each prompt.
    """
    if len(prompts) != len(completions):
        raise ValueError(
            f"{len(prompts)} prompts have {len(completions)} completions: give one to each"
        )
    total = 0.0
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        ids = [c.ids for c in completions[start : start + batch_size]]
        tokens = to_device(completion_batch(some, ids, range(len(some))), backbone.base.device)
        log_ratio = backbone.logprobs(tokens, role) - backbone.logprobs(tokens, reference)
        total += float(segment_sum(log_ratio, tokens.completion_index, tokens.completions).sum())
    return total / len(prompts)


@torch.no_grad()
def reward_accuracy(backbone: Backbone, role: str, batches: Any) -> float:
    """Compute the share of pairs that a reward role ranks right; a tie counts as wrong.

    Args:
        backbone: loaded.
        role: has a scalar head.
        batches: a loader, or another iterable of ``PreferenceBatch``.
    """
    right: list[Tensor] = []
    for batch in batches:
        assert isinstance(batch, PreferenceBatch)
        scores = backbone.scores(to_device(batch.tokens, backbone.base.device), role).cpu()
        right.append(scores[batch.chosen] > scores[batch.rejected])
    return float(torch.cat(right).float().mean())
