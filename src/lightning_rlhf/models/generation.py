"""Sample one answer per prompt, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import HFSampler, Sample, Sampling, room, stop_ids


def generate(
    backbone: Backbone,
    role: str,
    prompts: Sequence[list[int]],
    max_new_tokens: int = 128,
    temperature: float = 1.0,
) -> list[Sample]:
    """Sample one answer to each prompt as a role.

    Args:
        backbone: loaded.
        role: answers the prompts.
        prompts: token ids.
        max_new_tokens: length at which an answer that does not end is cut; it is cut before, where
            the model's context ends.
        temperature: 0 is greedy.
    """
    new = room(backbone, prompts, max_new_tokens)
    sampling = Sampling(max_new_tokens=new, temperature=temperature)
    return HFSampler().sample(backbone, role, prompts, sampling)


def answer(backbone: Backbone, sample: Sample) -> list[int]:
    """Return a sample's ids without the end token."""
    ended = sample.finished and sample.ids[-1] in stop_ids(backbone)
    return sample.ids[:-1] if ended else sample.ids
