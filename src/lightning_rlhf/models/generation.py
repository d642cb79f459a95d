"""Sampling completions from a role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import GenerationConfig

from lightning_rlhf.models.backbone import Backbone


class Completion(NamedTuple):
    """One sampled answer."""

    ids: list[int]  # without the end token
    finished: bool  # whether the model ended it, or the length did


def stop_ids(backbone: Backbone) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and those of the generation config."""
    found = {backbone.tokenizer.eos_token_id}
    config = backbone.base.generation_config
    of_model = getattr(config, "eos_token_id", None)
    found |= set(of_model if isinstance(of_model, list) else [of_model])
    return sorted(i for i in found if isinstance(i, int))


@torch.no_grad()
def generate(
    backbone: Backbone,
    role: str,
    prompts: Sequence[list[int]],
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> list[Completion]:
    """Sample one completion per prompt as a role, plainly, so that log-probs mean what they say.

    No top-p, no top-k, no repetition penalty: they would make a KL estimate from these samples
    negative. So the model's own generation config, which fills in what ours leaves out, is laid
    aside. Prompts are sorted by length into left-padded batches; results keep the order of prompts.

    Args:
        backbone: loaded.
        role: who answers.
        prompts: token ids.
        max_new_tokens: where an answer that does not end is cut.
        temperature: 0 is greedy.
        batch_size: prompts decoded side by side.
    """
    stops = stop_ids(backbone)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_k=0 if temperature > 0 else None,
        top_p=1.0 if temperature > 0 else None,
        eos_token_id=stops,
        pad_token_id=backbone.tokenizer.pad_token_id,
    )
    model = backbone.model_of(role)
    was_training, of_model = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: dict[int, Completion] = {}
    try:
        with backbone.role(role):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                ids, mask = left_pad(
                    [prompts[i] for i in chosen], config.pad_token_id, model.device
                )
                out = model.generate(ids, attention_mask=mask, generation_config=config)
                for i, row in zip(chosen, out[:, ids.shape[1] :].tolist(), strict=True):
                    end = next((k for k, token in enumerate(row) if token in stops), None)
                    results[i] = Completion(row[:end], finished=end is not None)
    finally:
        model.generation_config = of_model
        model.train(was_training)
    return [results[i] for i in range(len(prompts))]


def left_pad(
    rows: Sequence[list[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids and mask, padded on the left as decoding wants them."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
