"""Sample a role on held-out prompts and score its answers with the oracle."""

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
from lightning_rlhf.quickstart.world import oracle_verdict

MAX_ANSWER = 24  # tokens; good answers are at most half as long
SAMPLES = 3  # answers to each held-out prompt: the standard error of a share is below 2 points


class Sampled(NamedTuple):
    """Answers of a role, and the oracle's figures."""

    answers: list[str]  # the first to each prompt
    scores: list[float]  # of these answers
    metrics: dict[str, float]
    all_answers: list[str]  # the first to each prompt, then the second to each


def sample(backbone: Backbone, role: str, prompts: list[str], times: int = SAMPLES) -> Sampled:
    """Answer every prompt several times at temperature 1 and score the answers."""
    count = len(prompts)
    prompts = prompts * times
    template = ChatTemplate(backbone.tokenizer)
    ids = [template.encode_prompt(prompt) for prompt in prompts]
    completions = generate(backbone, role, ids, MAX_ANSWER, temperature=1.0)
    answers = [backbone.tokenizer.decode(answer(backbone, c)) for c in completions]
    verdicts = [
        oracle_verdict(p, a, c.finished)
        for p, a, c in zip(prompts, answers, completions, strict=True)
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
    return Sampled(answers[:count], scores[:count], metrics, answers)


@torch.no_grad()
def learnt_reward(backbone: Backbone, prompts: list[list[int]], completions: list[Sample]) -> float:
    """Return the mean score of the reward role."""
    tokens = completion_batch(prompts, [c.ids for c in completions], range(len(prompts)))
    return float(backbone.scores(to_device(tokens, backbone.base.device), REWARD).mean())


def kl_to_reference(
    backbone: Backbone, role: str, prompts: list[list[int]], completions: list[Sample]
) -> float:
    """Return the KL in nats per answer; 0 if there is no reference."""
    if REFERENCE not in backbone.roles:
        return 0.0
    return sampled_kl(backbone, role, REFERENCE, prompts, completions)


def mean(values: list[float] | list[bool]) -> float:
    """Average a list that is not empty."""
    return sum(values) / len(values)
