"""What recipes on the micro-world call: it is written, and it judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_rlhf.constitution.demonstrations import write_rows
from lightning_rlhf.data.datamodules import PreferenceData
from lightning_rlhf.evaluation.roles import reward_accuracy
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.modules.reward import REWARD
from lightning_rlhf.quickstart import critic
from lightning_rlhf.quickstart.measure import mean, sample
from lightning_rlhf.quickstart.model import write_base
from lightning_rlhf.quickstart.world import World, judge, task_of
from lightning_rlhf.reporting.frontier import Point, draw_frontier

SHOWN = 12  # answers in a report


def write_world(
    folder: str,
    seed: int = 0,
    demonstrations: int = 5000,
    preferences: int = 9000,
    lessons: int = 0,
) -> dict[str, Any]:
    """Write a world: an untrained model, ``base``, and rows of each kind.

    ``demonstrations``, ``preferences`` and ``unseen`` pairs, training ``prompts``; with lessons
    also those, ``helpful`` rows and the ``constitution``, and the world has deeds to refuse.

    Args:
        folder: where to.
        seed: of the rows and of the model.
        demonstrations: how many answers, of mixed quality.
        preferences: how many pairs to train on; 1,000 unseen ones are beside them.
        lessons: how many answers are criticised, revised and compared.
    """
    home, world = Path(folder), World(seed, deeds=lessons > 0)
    words = critic.vocabulary(world) if lessons else world.vocabulary()
    template = critic.CHAT_TEMPLATE if lessons else None
    size = write_base(home / "base", words, seed, template)
    asked = world.prompts(held_out=False)
    rows: dict[str, list[dict[str, Any]]] = {
        "demonstrations": world.demonstrations(demonstrations),
        "preferences": world.preferences(preferences),
        "unseen": world.preferences(1000, held_out=True),
        "prompts": [{"prompt": prompt} for prompt in asked],
    }
    if lessons:
        rows["lessons"] = critic.lessons(world, lessons)
        rows["helpful"] = critic.helpful(world, demonstrations // 4)
        (home / "constitution.yaml").write_text(critic.CONSTITUTION.to_yaml())
    for name, each in rows.items():
        write_rows(home / f"{name}.jsonl", each)
    return {
        "model": f"Llama, {size:,} parameters, from scratch",
        "world": f"{len(words)} words, {len(world.prompts(held_out=True))} held-out prompts",
    }


def judge_policy(backbone: Backbone, every: int = 1, deeds: bool = False) -> dict[str, Any]:
    """Sample answers to held-out prompts and ask the oracle; some of them for the report.

    Args:
        backbone: a model trained whole, or a base with a ``policy`` in its ``adapters``; then the
            base is the reference that KL is measured to. A ``reward`` there scores the answers.
        every: take every so manieth prompt only.
        deeds: in the world with deeds to refuse; then both sides of refusing are counted too.
    """
    backbone.load().add_role(POLICY)
    if POLICY in backbone.adapters:
        backbone.add_role(REFERENCE, trainable=False)
    if REWARD in backbone.adapters:
        backbone.add_role(REWARD, trainable=False, head=True)
    backbone.eval()
    prompts = World(deeds=deeds).prompts(held_out=True)[::every]
    said = sample(backbone, POLICY, prompts)
    rows = list(zip(prompts, said.answers, said.scores, strict=True))
    found = {**said.metrics, "answers": rows[:: max(1, len(prompts) // SHOWN)]}
    return found | refusals(prompts, said.all_answers) if deeds else found


def refusals(prompts: list[str], answers: list[str]) -> dict[str, float]:
    """Harm helped with, and harmless requests refused: each costs the other.

    Args:
        prompts: of the world with deeds.
        answers: to them, all of one sample before those of the next.
    """
    asked = list(zip(prompts * (len(answers) // len(prompts)), answers, strict=True))
    harm = [critic.complies(p, a) for p, a in asked if task_of(p).kind == "harm"]
    alike = [critic.refuses(a) for p, a in asked if task_of(p).kind == "deed"]
    rest = [judge(p, a, True).score for p, a in asked if task_of(p).kind != "harm"]
    return {
        "harmful_compliance": mean(harm),
        "over_refusal": mean(alike),
        "helpful_score": mean(rest),
    }


def draw(folder: str, files: list[str]) -> None:
    """One picture of what methods gain for the KL they spend, ``frontier.png``.

    Args:
        folder: where to.
        files: points that ``Frontier`` left.
    """
    points = [Point(**point) for file in files for point in json.loads(Path(file).read_text())]
    draw_frontier(points, Path(folder) / "frontier.png")


def judge_reward(backbone: Backbone, source: str) -> dict[str, float]:
    """How many unseen pairs a reward role orders as the oracle does.

    Args:
        backbone: with a ``reward`` in its ``adapters``.
        source: the pairs.
    """
    backbone.load().add_role(REWARD, trainable=False, head=True)
    backbone.eval()
    data = PreferenceData(source, val_fraction=0.0, batch_size=64, tokenizer=backbone.tokenizer)
    data.setup()
    return {"reward_accuracy": reward_accuracy(backbone, REWARD, data.train_dataloader())}
