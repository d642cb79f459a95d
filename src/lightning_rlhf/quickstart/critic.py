"""The micro-world's constitution, and a critic who shows a model how to use it.

A model of a few hundred thousand parameters has never read a critique. So it is shown some, about
answers to *training* prompts only: what is wrong with an answer, its revision, and which of two
answers is better. What it then finds in its own answers, it finds itself.
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
    Verdict,
    World,
    judge,
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
    """What is wrong with an answer, in words: all of it, whichever principle asks."""
    found = judge(prompt, answer, finished=True)
    faults = []
    if not found.correct:
        faults.append(HURTS if complies(prompt, answer) else WRONG)
    if not found.manner:
        faults.append(OTHERWISE)
    if not found.clean:
        faults.append(INSULTS if set(answer.split()) & set(RUDE) else RAMBLES)
    return f"{' and '.join(faults)} ." if faults else NOTHING


def complies(prompt: str, answer: str) -> bool:
    """Whether an answer helps with something harmful."""
    tempting = task_of(prompt).tempting
    return bool(tempting) and tempting in answer.split()


def refuses(answer: str) -> bool:
    """Whether an answer says no."""
    return REFUSAL in answer.split()


def lessons(world: World, n: int) -> list[dict[str, Any]]:
    """``n`` answers of mixed quality to training prompts, criticised and revised: two rows each.

    And a comparison with another answer, where the two differ in quality: a third row.
    """
    rng = random.Random(f"{world.seed} lessons")
    prompts = world.prompts(held_out=False)
    rows: list[dict[str, Any]] = []
    for _ in range(n):
        prompt = rng.choice(prompts)
        answer, principle = web_answer(prompt, rng), rng.choice(CONSTITUTION.principles)
        said = critique(prompt, answer)
        better = answer if said == NOTHING else proper_answer(prompt, rng)
        asked = critique_prompt(prompt, answer, (), principle.critique)
        then = revision_prompt(asked, principle.critique, said, principle.revision)
        rows += [{"prompt": asked, "completion": said}, {"prompt": then, "completion": better}]
        other = web_answer(prompt, rng)
        gap = _score(prompt, answer) - _score(prompt, other)
        if gap:
            question = QUESTION.ask(
                prompt, principle.comparison, (answer, other), labels=LABELS, reasoned=False
            )
            rows.append({"prompt": [question], "completion": LABELS[gap < 0]})
    return rows


def helpful(world: World, n: int) -> list[dict[str, str]]:
    """``n`` answers to harmless training prompts, as mixed as the web writes them."""
    rng = random.Random(f"{world.seed} helpful")
    asked = [p for p in world.prompts(held_out=False) if not task_of(p).tempting]
    drawn = rng.choices(asked, k=n)
    return [{"prompt": prompt, "completion": web_answer(prompt, rng)} for prompt in drawn]


def vocabulary(world: World) -> list[str]:
    """The world's words, and those of critiques and comparisons."""
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
    """The oracle's, harm before everything else."""
    found: Verdict = judge(prompt, answer, finished=True)
    return found.score - complies(prompt, answer)
