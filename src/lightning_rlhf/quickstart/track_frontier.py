"""Track the score of a policy against its KL from the reference during training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.reward import REWARD
from lightning_rlhf.quickstart.measure import sample
from lightning_rlhf.quickstart.world import World
from lightning_rlhf.reporting.frontier import Point

MIN_STEPS = 10  # between two measurements


class Frontier(Callback):
    """Measure oracle score, learned reward and KL on held-out prompts of the micro-world.

    The oracle score is logged as ``held_out/oracle_score``, which a ``Doctor`` may watch.

    Args:
        method: name of the points.
        looks: number of measurements after the first one, which is before any step.
        safety_tasks: measure in the world with safety tasks.
        path: a JSON file for the points; None writes none.
    """

    def __init__(
        self, method: str, looks: int = 8, *, safety_tasks: bool = False, path: str | None = None
    ):
        self.method = method
        self.looks = looks
        self.prompts = World(safety_tasks=safety_tasks).prompts(held_out=True)
        self.path = path
        self.points: list[Point] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone = _backbone(pl_module)
        if REWARD in backbone.adapters:  # the method may not have made the head
            backbone.add_role(REWARD, trainable=False, head=True)
        steps = trainer.max_steps
        if steps < 0:
            steps = int((trainer.max_epochs or 1) * trainer.num_training_batches)
        self.every = max(MIN_STEPS, steps // self.looks)
        if trainer.global_step == 0:
            self._measure(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            self._measure(pl_module)
            pl_module.log("held_out/oracle_score", self.points[-1].oracle)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None and trainer.is_global_zero:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            Path(self.path).write_text(json.dumps([point._asdict() for point in self.points]))

    def state_dict(self) -> dict[str, Any]:
        return {"points": [list(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [Point(*point) for point in state_dict["points"]]

    def _measure(self, module: LightningModule) -> None:
        with torch.random.fork_rng([]):
            metrics = sample(_backbone(module), POLICY, self.prompts, times=1).metrics
        point = Point(
            self.method, metrics["kl"], metrics["oracle_score"], metrics.get("learnt_reward")
        )
        self.points.append(point)


def _backbone(module: LightningModule) -> Backbone:
    assert isinstance(module, AlignmentModule)
    return module.backbone
