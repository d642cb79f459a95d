"""What recipes on the micro-world call: it is written, and it judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_rlhf.data.modules import PreferenceData
from lightning_rlhf.evaluation.roles import reward_accuracy
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.modules.reward import REWARD
from lightning_rlhf.quickstart import critic
from lightning_rlhf.quickstart.model import write_base
from lightning_rlhf.quickstart.run import mean, sample, write_rows
from lightning_rlhf.quickstart.world import World, judge, task_of

SHOWN = 12  # answers in a report


def write_world(
    folder: str, seed: int = 0, demonstrations: int = 5000, preferences: int = 9000
) -> dict[str, Any]:
    """Write an untrained model, ``base``, and rows: demonstrations, preferences, unseen pairs.

    Args:
        folder: where to.
        seed: of the rows and of the model.
        demonstrations: how many.
        preferences: how many pairs to train on; 1,000 unseen ones are beside them.
    """
    home, world = Path(folder), World(seed)
    size = write_base(home / "base", world.vocabulary(), seed)
    write_rows(home / "demonstrations.jsonl", world.demonstrations(demonstrations))
    write_rows(home / "preferences.jsonl", world.preferences(preferences))
    write_rows(home / "unseen.jsonl", world.preferences(1000, held_out=True))
    return {"model": f"Llama, {size:,} parameters, from scratch"}


def write_critical_world(
    folder: str, seed: int = 0, demonstrations: int = 6000, lessons: int = 3000
) -> dict[str, Any]:
    """Write a world with deeds to refuse, for a model that is to criticise itself.

    Beside the untrained ``base``: demonstrations, lessons in the formats, the training prompts,
    helpful rows, and the constitution.

    Args:
        folder: where to.
        seed: of the rows and of the model.
        demonstrations: how many, of mixed quality; harmful requests are mostly complied with.
        lessons: answers that are criticised, revised and compared.
    """
    home, world = Path(folder), World(seed, deeds=True)
    size = write_base(home / "base", critic.vocabulary(world), seed, critic.CHAT_TEMPLATE)
    write_rows(home / "demonstrations.jsonl", world.demonstrations(demonstrations))
    write_rows(home / "lessons.jsonl", critic.lessons(world, lessons))
    prompts = [{"prompt": prompt} for prompt in world.prompts(held_out=False)]
    write_rows(home / "prompts.jsonl", prompts)
    write_rows(home / "helpful.jsonl", critic.helpful(world, demonstrations // 4))
    (home / "constitution.yaml").write_text(critic.CONSTITUTION.to_yaml())
    return {"model": f"Llama, {size:,} parameters, from scratch"}


def judge_policy(backbone: Backbone, every: int = 1, deeds: bool = False) -> dict[str, Any]:
    """Sample answers to held-out prompts and ask the oracle; some of them for the report.

    Args:
        backbone: a model trained whole, or a base with a ``policy`` in its ``adapters``; then the
            base is the reference that KL is measured to.
        every: take every so manieth prompt only.
        deeds: in the world with deeds to refuse; then both sides of refusing are counted too.
    """
    backbone.load().add_role(POLICY)
    if backbone.lora is not None:
        backbone.add_role(REFERENCE, trainable=False)
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
