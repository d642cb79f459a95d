"""What a policy is worth as it moves away from its reference, measured while it does."""

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

LEAST = 10  # steps between two looks


class Frontier(Callback):
    """The oracle's score, the learnt reward and the KL, on held-out prompts of the micro-world.

    The oracle's score is logged as ``held_out/oracle_score``, which a ``Doctor`` may watch.

    Args:
        method: by which its points are named.
        looks: how often it is measured after the first time, before any step.
        deeds: the world has them.
        path: a JSON file of the points; None for none.
    """

    def __init__(self, method: str, looks: int = 8, deeds: bool = False, path: str | None = None):
        self.method = method
        self.looks = looks
        self.prompts = World(deeds=deeds).prompts(held_out=True)
        self.path = path
        self.points: list[Point] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone = _backbone(pl_module)
        if REWARD in backbone.adapters:  # a method that does not score has not made its head
            backbone.add_role(REWARD, trainable=False, head=True)
        steps = trainer.max_steps
        if steps < 0:
            steps = int((trainer.max_epochs or 1) * trainer.num_training_batches)
        self.every = max(LEAST, steps // self.looks)
        if trainer.global_step == 0:
            self._look(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            self._look(pl_module)
            pl_module.log("held_out/oracle_score", self.points[-1].oracle)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None and trainer.is_global_zero:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            Path(self.path).write_text(json.dumps([point._asdict() for point in self.points]))

    def state_dict(self) -> dict[str, Any]:
        return {"points": [list(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [Point(*point) for point in state_dict["points"]]

    def _look(self, module: LightningModule) -> None:
        with torch.random.fork_rng([]):
            seen = sample(_backbone(module), POLICY, self.prompts, times=1).metrics
        point = Point(self.method, seen["kl"], seen["oracle_score"], seen.get("learnt_reward"))
        self.points.append(point)


def _backbone(module: LightningModule) -> Backbone:
    assert isinstance(module, AlignmentModule)
    return module.backbone
