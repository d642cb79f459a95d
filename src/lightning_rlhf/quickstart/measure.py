"""Held-out prompts answered by a role, and what the oracle says of them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lightning_rlhf.batches import to_device
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.evaluation.roles import sampled_kl
from lightning_rlhf.models.backbone import REFERENCE, Backbone
from lightning_rlhf.models.generation import answer, generate
from lightning_rlhf.models.sampler import Sample
from lightning_rlhf.modules.reward import REWARD
from lightning_rlhf.quickstart.world import judge

MAX_ANSWER = 24  # tokens; no good answer of the world is longer than half of it
SAMPLES = 3  # answers to each held-out prompt; the standard error of a share is then below 2 points


class Sampled(NamedTuple):
    """Held-out prompts answered by a role, and what the oracle says."""

    answers: list[str]  # the first to each prompt
    scores: list[float]  # of those
    metrics: dict[str, float]
    all_answers: list[str]  # of each prompt the first, then of each the second


def sample(backbone: Backbone, role: str, prompts: list[str], times: int = SAMPLES) -> Sampled:
    """Answer every prompt some times at temperature 1 and ask the oracle."""
    asked = len(prompts)
    prompts = prompts * times
    template = ChatTemplate(backbone.tokenizer)
    ids = [template.encode_prompt(prompt) for prompt in prompts]
    completions = generate(backbone, role, ids, MAX_ANSWER, temperature=1.0)
    answers = [backbone.tokenizer.decode(answer(backbone, c)) for c in completions]
    verdicts = [
        judge(p, a, c.finished) for p, a, c in zip(prompts, answers, completions, strict=True)
    ]
    scores = [v.score for v in verdicts]
    metrics = {
        "fully_good": mean([v.fully_good for v in verdicts]),
        "oracle_score": mean(scores),
        "eos_share": mean([c.finished for c in completions]),
        "kl": kl_to_reference(backbone, role, ids, completions),
    }
    if REWARD in backbone.heads:
        metrics["learnt_reward"] = learnt_reward(backbone, ids, completions)
    return Sampled(answers[:asked], scores[:asked], metrics, answers)


@torch.no_grad()
def learnt_reward(backbone: Backbone, prompts: list[list[int]], completions: list[Sample]) -> float:
    """The mean score that the reward role gives."""
    tokens = completion_batch(prompts, [c.ids for c in completions], range(len(prompts)))
    return float(backbone.scores(to_device(tokens, backbone.base.device), REWARD).mean())


def kl_to_reference(
    backbone: Backbone, role: str, prompts: list[list[int]], completions: list[Sample]
) -> float:
    """Nats per answer; 0 before there is a reference to move away from."""
    if REFERENCE not in backbone.roles:
        return 0.0
    return sampled_kl(backbone, role, REFERENCE, prompts, completions)


def mean(values: list[float] | list[bool]) -> float:
    """Of a list that is not empty."""
    return sum(values) / len(values)
