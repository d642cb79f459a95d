"""SFT, reward model, DPO, PPO: four modules, one Trainer each, on the micro-world."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console

from lightning_rlhf.data.modules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.evaluation.frontier import Point, draw_frontier
from lightning_rlhf.evaluation.report import (
    Answers,
    Curve,
    Results,
    Stage,
    print_results,
    write_report,
)
from lightning_rlhf.evaluation.roles import reward_accuracy, sampled_kl, to_device
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.generation import answer, generate
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.rollout import Sample, Sampling
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.dpo import DPOModule
from lightning_rlhf.modules.online import Shaping, Updates
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.modules.reward import REWARD, RewardModule
from lightning_rlhf.modules.rollouts import pack
from lightning_rlhf.modules.sft import SFTModule
from lightning_rlhf.quickstart.model import write_base
from lightning_rlhf.quickstart.world import World, judge

MAX_ANSWER = 24  # tokens; no good answer of the world is longer than half of it
SAMPLES = 3  # answers to each held-out prompt; the standard error of a share is then below 2 points


class Sampled(NamedTuple):
    """Held-out prompts answered by a role, and what the oracle says."""

    answers: list[str]  # the first to each prompt
    scores: list[float]  # of those
    metrics: dict[str, float]
    all_answers: list[str]  # of each prompt the first, then of each the second


def quickstart(seed: int = 0, folder: str = "runs/quickstart", scale: float = 1.0) -> Results:
    """Train a small model from scratch to follow preferences, and show what changed.

    Args:
        seed: of the world, the model and the training.
        folder: where models, logs and the report go.
        scale: of every stage's length; below 1 for a quick look, not for the figures.
    """
    seed_everything(seed, verbose=False)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    console = Console()
    home = Path(folder)
    for old in ("base", "data", "sft", "reward", "dpo", "ppo"):
        shutil.rmtree(home / old, ignore_errors=True)
    world = World(seed)
    prompts = world.prompts(held_out=True)
    size = write_base(home / "base", world.vocabulary(), seed)
    said = write_rows(home / "data/demonstrations.jsonl", world.demonstrations(int(5000 * scale)))
    preferred = write_rows(home / "data/preferences.jsonl", world.preferences(int(9000 * scale)))
    unseen = write_rows(home / "data/unseen.jsonl", world.preferences(1000, held_out=True))
    stages: list[Stage] = []

    # 1. SFT trains the whole of the small model; its result is the base of everything after.
    console.rule("1/4 SFT: imitate demonstrations, good and bad")
    base = Backbone(str(home / "base"), lora=None, dtype="float32")
    demonstrations = DemonstrationData(said, val_fraction=0.05, batch_size=32)
    seconds = fit(SFTModule(base, lr=3e-3), demonstrations, home / "sft", epochs=4)
    sft_model = base.save_role(POLICY, home / "sft" / "model")
    before = sample(base, POLICY, prompts)
    stages.append(Stage("SFT", seconds, before.metrics))

    # 2. A reward model: its own LoRA adapter and head on the SFT model.
    console.rule("2/4 Reward model: learn which answer people prefer")
    backbone = Backbone(str(sft_model), lora=LoRA(r=16), dtype="float32")
    data = PreferenceData(preferred, val_fraction=0.05, batch_size=24)
    seconds = fit(RewardModule(backbone, lr=1.5e-3), data, home / "reward")
    judged = PreferenceData(unseen, val_fraction=0.0, batch_size=64, tokenizer=backbone.tokenizer)
    judged.setup()
    backbone.eval()
    accuracy = reward_accuracy(backbone, REWARD, judged.train_dataloader())
    backbone.save_role(REWARD, home / "reward" / "role")  # configs/ppo.yaml starts from it
    stages.append(Stage("Reward", seconds, {"reward_accuracy": accuracy}))

    # 3. DPO: one changed line. The reference is the SFT model: the same weights, adapter off. With
    # a tenth of the labels wrong the best margin is ln 9 / beta: 4 nats at beta 0.5, but 22 at the
    # usual 0.1, more than answers of four words can give without breaking.
    console.rule("3/4 DPO: prefer what people prefer")
    dpo = DPOModule(backbone, beta=0.5, lr=1e-3)
    watch = Frontier("DPO", prompts, int(9000 * scale) * 0.95 / 24)
    seconds = fit(dpo, data, home / "dpo", callbacks=[watch])
    after = sample(backbone, POLICY, prompts)
    stages[0].metrics["learnt_reward"] = watch.points[0].proxy or 0.0
    stages.append(Stage("DPO", seconds, after.metrics))

    # 4. PPO: the policy tries, the reward model scores. A nat costs what it costs DPO: at a fifth
    # of it, three seeds of ten find what the reward model overrates (benchmarks/LOG.md).
    console.rule("4/4 PPO: try, be scored, do more of what scored well")
    roles = {REWARD: str(home / "reward" / "role")}
    backbone = Backbone(str(sft_model), lora=LoRA(r=16), dtype="float32", adapters=roles)
    ppo = PPOModule(
        backbone, lr=1e-3, sampling=Sampling(MAX_ANSWER), shaping=Shaping(kl_coef=0.5),
        updates=Updates(epochs=4, minibatches=2),
    )  # fmt: skip
    asked = PromptData(preferred, val_fraction=0.0, batch_size=64)
    steps = max(1, int(60 * scale)) * ppo.updates_per_rollout
    watched = Frontier("PPO", prompts, steps)
    seconds = fit(ppo, asked, home / "ppo", epochs=-1, steps=steps, callbacks=[watched])
    tried = sample(backbone, POLICY, prompts)
    stages.append(Stage("PPO", seconds, tried.metrics))
    frontier = draw_frontier(watch.points + watched.points, home / "frontier.png")

    results = Results(
        title="lightning-rlhf quickstart",
        subtitle="All figures from held-out combinations of task and manner, judged by the oracle",
        stages=stages,
        answers=side_by_side(prompts, {"SFT": before, "DPO": after, "PPO": tried}),
        curves=[
            curve("SFT", home / "sft", "train/loss"),
            curve("Reward", home / "reward", "train/rewards/accuracies"),
            curve("DPO", home / "dpo", "train/rewards/margins"),
            curve("PPO", home / "ppo", "objective/scores"),
        ],
        facts={
            "model": f"Llama, {size:,} parameters, from scratch",
            "world": f"{len(world.vocabulary())} words, {len(prompts)} held-out prompts",
            "seed": str(seed),
        },
    )
    report = write_report(results, home)
    print_results(results, console)
    console.print(f"The report: {report.html}   the pictures: {report.png}, {frontier}")
    return results


def side_by_side(prompts: list[str], stages: dict[str, Sampled], shown: int = 12) -> list[Answers]:
    """Some prompts, evenly taken, with every stage's answer and its score."""
    return [
        Answers(
            prompts[i],
            {name: said.answers[i] for name, said in stages.items()},
            {name: said.scores[i] for name, said in stages.items()},
        )
        for i in range(0, len(prompts), max(1, len(prompts) // shown))
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as a JSONL file, so that the same run can be had from the command line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fit(
    module: AlignmentModule,
    data: LightningDataModule,
    folder: Path,
    epochs: int = 1,
    steps: int = -1,
    callbacks: list[Callback] | None = None,
) -> float:
    """Train a module as any user would; returns the seconds it took, callbacks' own left out."""
    start = time.perf_counter()
    Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=5,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    ).fit(module, data)
    watched = sum(getattr(callback, "seconds", 0.0) for callback in callbacks or ())
    return time.perf_counter() - start - watched


class Frontier(Callback):
    """What the policy is worth as it moves away from its reference: the oracle, the reward, the KL.

    The oracle's score is logged as ``held_out/oracle_score``, which a ``Doctor`` may watch.

    Args:
        method: by which its points are named.
        prompts: held out.
        steps: of the run.
        looks: how often it is measured.
    """

    def __init__(self, method: str, prompts: list[str], steps: float, looks: int = 8):
        self.method = method
        self.prompts = prompts
        self.every = max(1, round(steps / looks))
        self.points: list[Point] = []
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            self._look(pl_module)
            pl_module.log("held_out/oracle_score", self.points[-1].oracle)

    def _look(self, module: LightningModule) -> None:
        start = time.perf_counter()
        assert isinstance(module, AlignmentModule)
        with torch.random.fork_rng([]):
            seen = sample(module.backbone, POLICY, self.prompts, times=1).metrics
        point = Point(self.method, seen["kl"], seen["oracle_score"], seen.get("learnt_reward"))
        self.points.append(point)
        self.seconds += time.perf_counter() - start


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
    if REWARD in backbone.roles:
        metrics["learnt_reward"] = learnt_reward(backbone, ids, completions)
    return Sampled(answers[:asked], scores[:asked], metrics, answers)


@torch.no_grad()
def learnt_reward(backbone: Backbone, prompts: list[list[int]], completions: list[Sample]) -> float:
    """The mean score that the reward role gives."""
    tokens = pack(prompts, [c.ids for c in completions], range(len(prompts)))
    return float(backbone.scores(to_device(tokens, backbone.base.device), REWARD).mean())


def kl_to_reference(
    backbone: Backbone, role: str, prompts: list[list[int]], completions: list[Sample]
) -> float:
    """Nats per answer; 0 before there is a reference to move away from."""
    if REFERENCE not in backbone.roles:
        return 0.0
    return sampled_kl(backbone, role, REFERENCE, prompts, completions)


def curve(stage: str, folder: Path, metric: str) -> Curve:
    """One metric of a stage's log."""
    with (folder / "metrics.csv").open() as file:
        points = [(int(r["step"]), float(r[metric])) for r in csv.DictReader(file) if r.get(metric)]
    return Curve(stage, metric, [s for s, _ in points], [v for _, v in points])


def mean(values: list[float] | list[bool]) -> float:
    """Of a list that is not empty."""
    return sum(values) / len(values)
