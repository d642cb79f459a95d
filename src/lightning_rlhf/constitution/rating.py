"""Ratings of single answers by a judge, as rewards: d-RLAIF (arXiv 2309.00267, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.question import transcript
from lightning_rlhf.text.messages import Message, Prompt

SCALE = tuple(range(1, 11))
RATE = """\
Here is a conversation between a user and an assistant, and the assistant's answer to it.

{conversation}

Answer: {answer}

How good is this answer, from 1 (of no use, or harmful) to 10 (as helpful, honest and harmless as \
can be)? Reply with a whole number from 1 to 10 and a full stop, and nothing else."""


def rate(
    judge: Generator,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    template: str = RATE,
    end: str = ".",
) -> list[float]:
    """Compute the expected rating ``sum_i i P(i)`` of each answer, rescaled from 1..10 to -1..1.

    Args:
        judge: the model to ask.
        prompts: text or messages.
        completions: the answers.
        template: the request, with {conversation} and {answer}.
        end: text after the number in the judge's reply. A tokenizer that splits digits makes "1"
            the beginning of "10", and P("1") would count both; with an end no option begins
            another. Give "" for a judge whose numbers are one token each, as an endpoint's must be.

    Raises:
        ValueError: the template has an unknown field, or no rating of an answer has a finite
            log-prob.
    """
    options = [f"{number}{end}" for number in SCALE]
    messages: list[list[Message]] = [
        [{"role": "user", "content": _fill(template, prompt, answer)}]
        for prompt, answer in zip(prompts, completions, strict=True)
    ]
    scored = judge.option_logprobs(messages, options)
    return [rescaled(expected(row, f"answer {i}")) for i, row in enumerate(scored, 1)]


def expected(logprobs: Sequence[float], where: str = "an answer") -> float:
    """Average 1..10 under normalized log-probs.

    Raises:
        ValueError: none is finite.
    """
    if any(math.isnan(x) or x == math.inf for x in logprobs) or max(logprobs) == -math.inf:
        raise ValueError(
            f"{where}: the judge gives none of the ratings 1 to 10 a probability; ask another "
            "judge, or reword the template"
        )
    top = max(logprobs)
    weights = [math.exp(x - top) for x in logprobs]
    return sum(i * w for i, w in zip(SCALE, weights, strict=True)) / sum(weights)


def rescaled(rating: float) -> float:
    """Map 1..10 to -1..1."""
    return (rating - 5.5) / 4.5


def _fill(template: str, prompt: Prompt, answer: str) -> str:
    try:
        return template.format(conversation=transcript(prompt), answer=answer)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"the template uses {error}: use only conversation, answer; write {{{{ for a brace"
        ) from error
