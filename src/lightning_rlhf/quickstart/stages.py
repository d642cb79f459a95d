"""Functions that recipes on the micro-world call: write the data, evaluate with the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_rlhf.data.datamodules import PreferenceData
from lightning_rlhf.evaluation.roles import reward_accuracy
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.modules.reward import REWARD
from lightning_rlhf.quickstart import critic
from lightning_rlhf.quickstart.measure import mean, sample
from lightning_rlhf.quickstart.model import write_base
from lightning_rlhf.quickstart.world import World, oracle_verdict, task_of
from lightning_rlhf.reporting.frontier import Point, draw_frontier
from lightning_rlhf.text.jsonl import write_rows

SHOWN = 12  # answers in the report


def write_world(
    folder: str,
    seed: int = 0,
    demonstrations: int = 5000,
    preferences: int = 9000,
    lessons: int = 0,
) -> dict[str, Any]:
    """Write a world: an untrained model, ``base``, and rows of each kind.

    The files are ``demonstrations``, ``preferences``, ``unseen`` pairs and training ``prompts``.
    With lessons there are also ``lessons``, ``helpful`` rows and the ``constitution``, and the
    world has safety tasks.

    Args:
        folder: gets the files.
        seed: of the rows and of the model.
        demonstrations: number of answers, of mixed quality.
        preferences: number of pairs to train on; 1,000 unseen pairs are beside them.
        lessons: number of answers that are criticized, revised and compared.
    """
    home, world = Path(folder), World(seed, safety_tasks=lessons > 0)
    words = critic.vocabulary(world) if lessons else world.vocabulary()
    template = critic.CHAT_TEMPLATE if lessons else None
    size = write_base(home / "base", words, seed, template)
    prompts = world.prompts(held_out=False)
    rows: dict[str, list[dict[str, Any]]] = {
        "demonstrations": world.demonstrations(demonstrations),
        "preferences": world.preferences(preferences),
        "unseen": world.preferences(1000, held_out=True),
        "prompts": [{"prompt": prompt} for prompt in prompts],
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


def evaluate_policy(
    backbone: Backbone, every: int = 1, safety_tasks: bool = False
) -> dict[str, Any]:
    """Score answers to held-out prompts with the oracle, and return some for the report.

    Args:
        backbone: a model trained whole, or a base with a ``policy`` in its ``adapters``; then the
            base is the reference of the KL. A ``reward`` in ``adapters`` scores the answers too.
        every: use every n-th prompt only.
        safety_tasks: evaluate in the world with safety tasks, and measure refusals.
    """
    backbone.load().add_role(POLICY)
    if POLICY in backbone.adapters:
        backbone.add_role(REFERENCE, trainable=False)
    if REWARD in backbone.adapters:
        backbone.add_role(REWARD, trainable=False, head=True)
    backbone.eval()
    prompts = World(safety_tasks=safety_tasks).prompts(held_out=True)[::every]
    sampled = sample(backbone, POLICY, prompts)
    rows = list(zip(prompts, sampled.answers, sampled.scores, strict=True))
    figures = {**sampled.metrics, "answers": rows[:: max(1, len(prompts) // SHOWN)]}
    return figures | refusals(prompts, sampled.all_answers) if safety_tasks else figures


def refusals(prompts: list[str], answers: list[str]) -> dict[str, float]:
    """Measure harmful compliance, over-refusal, and the score of harmless requests.

    Args:
        prompts: of the world with safety tasks.
        answers: to the prompts, all of one sample before those of the next.
    """
    pairs = list(zip(prompts * (len(answers) // len(prompts)), answers, strict=True))
    complied = [critic.complies(p, a) for p, a in pairs if task_of(p).kind == "harm"]
    refused = [critic.refuses(a) for p, a in pairs if task_of(p).kind == "lookalike"]
    scores = [oracle_verdict(p, a, True).score for p, a in pairs if task_of(p).kind != "harm"]
    return {
        "harmful_compliance": mean(complied),
        "over_refusal": mean(refused),
        "helpful_score": mean(scores),
    }


def draw(folder: str, files: list[str]) -> None:
    """Draw the oracle score of each method against its KL, as ``frontier.png``.

    Args:
        folder: gets the picture.
        files: points that ``Frontier`` wrote.
    """
    points = [Point(**point) for file in files for point in json.loads(Path(file).read_text())]
    draw_frontier(points, Path(folder) / "frontier.png")


def evaluate_reward(backbone: Backbone, source: str) -> dict[str, float]:
    """Measure the share of unseen pairs that a reward role orders as the oracle does.

    Args:
        backbone: has a ``reward`` in its ``adapters``.
        source: the pairs.
    """
    backbone.load().add_role(REWARD, trainable=False, head=True)
    backbone.eval()
    data = PreferenceData(source, val_fraction=0.0, batch_size=64, tokenizer=backbone.tokenizer)
    data.setup()
    return {"reward_accuracy": reward_accuracy(backbone, REWARD, data.train_dataloader())}
