"""The micro-world's constitution, and lessons of an oracle on how to use it.

A model of a few hundred thousand parameters has never read a critique. The lessons show it some,
about answers to *training* prompts only: the faults of an answer, its revision, and which of two
answers is better. The critiques of its own answers are then its own.
"""

from __future__ import annotations

import random
from typing import Any

from lightning_rlhf.constitution.chain import critique_prompt, revision_prompt
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.question import Question
from lightning_rlhf.quickstart.world import (
    REFUSAL,
    RUDE,
    World,
    oracle_verdict,
    proper_answer,
    task_of,
    web_answer,
)

# A word-level tokenizer joins turns by spaces; an answer ends with its end token in every turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}{{ eos_token }} {% endif %}{% endfor %}"
)
REVISE = "revision :"
LABELS = ("first", "second")
QUESTION = Question(
    direct="compare : {conversation} {a} : {first} {b} : {second} {question}",
    reasoned="compare : {conversation} {a} : {first} {b} : {second} {question}",
    conclude="so :",
)
CONSTITUTION = Constitution(
    "micro-world",
    "1",
    tuple(
        Principle(
            name,
            f"critique : {fault} ?",
            REVISE,
            comparison=f"which {better} ?",
            tags=(name,),
            source="own",
        )
        for name, fault, better in (
            ("harmless", "does it hurt", "hurts less"),
            ("kind", "is it rude", "is kinder"),
            ("true", "is it right", "is more right"),
            ("asked", "is it as asked", "is more as asked"),
        )
    ),
)
NOTHING = "nothing to change ."
HURTS, WRONG, OTHERWISE = "it hurts", "it is wrong", "it is not as asked"
INSULTS, RAMBLES = "it is rude", "it rambles"


def critique(prompt: str, answer: str) -> str:
    """Name all faults of an answer, whichever principle asks."""
    verdict = oracle_verdict(prompt, answer, finished=True)
    faults = []
    if not verdict.correct:
        faults.append(HURTS if complies(prompt, answer) else WRONG)
    if not verdict.manner:
        faults.append(OTHERWISE)
    if not verdict.clean:
        faults.append(INSULTS if set(answer.split()) & set(RUDE) else RAMBLES)
    return f"{' and '.join(faults)} ." if faults else NOTHING


def complies(prompt: str, answer: str) -> bool:
    """True if an answer complies with a harmful request."""
    tempting = task_of(prompt).tempting
    return bool(tempting) and tempting in answer.split()


def refuses(answer: str) -> bool:
    """True if an answer refuses."""
    return REFUSAL in answer.split()


def lessons(world: World, n: int) -> list[dict[str, Any]]:
    """Write ``n`` lessons on training prompts: rows of ``prompt`` and ``completion``.

    Each has a critique and a revision of an answer of mixed quality, two rows. Where another
    answer differs in quality, a comparison is the third.
    """
    rng = random.Random(f"{world.seed} lessons")
    prompts = world.prompts(held_out=False)
    rows: list[dict[str, Any]] = []
    for _ in range(n):
        prompt = rng.choice(prompts)
        answer, principle = web_answer(prompt, rng), rng.choice(CONSTITUTION.principles)
        faults = critique(prompt, answer)
        better = answer if faults == NOTHING else proper_answer(prompt, rng)
        first = critique_prompt(prompt, answer, (), principle.critique)
        second = revision_prompt(first, principle.critique, faults, principle.revision)
        rows += [
            {"prompt": first, "completion": faults},
            {"prompt": second, "completion": better},
        ]
        other = web_answer(prompt, rng)
        gap = _score(prompt, answer) - _score(prompt, other)
        if gap:
            question = QUESTION.ask(
                prompt, principle.comparison, (answer, other), labels=LABELS, reasoned=False
            )
            rows.append({"prompt": [question], "completion": LABELS[gap < 0]})
    return rows


def helpful(world: World, n: int) -> list[dict[str, str]]:
    """Write ``n`` answers of mixed quality to harmless training prompts."""
    rng = random.Random(f"{world.seed} helpful")
    prompts = [p for p in world.prompts(held_out=False) if not task_of(p).tempting]
    drawn = rng.choices(prompts, k=n)
    return [{"prompt": prompt, "completion": web_answer(prompt, rng)} for prompt in drawn]


def vocabulary(world: World) -> list[str]:
    """List the world's words and those of critiques and comparisons."""
    texts = [
        NOTHING,
        REVISE,
        *LABELS,
        *(HURTS, WRONG, OTHERWISE, INSULTS, RAMBLES),
        "so : compare : and",
    ]
    texts += [text for p in CONSTITUTION.principles for text in (p.critique, p.comparison)]
    return sorted({*world.vocabulary(), *" ".join(texts).split()})


def _score(prompt: str, answer: str) -> float:
    """Score an answer by the oracle; harm outweighs everything else."""
    return oracle_verdict(prompt, answer, finished=True).score - complies(prompt, answer)
