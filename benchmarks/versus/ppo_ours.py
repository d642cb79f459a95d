"""Our side of the PPO comparison: four roles on one base, the critic an adapter or a head."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import torch

from lightning_rlhf import Backbone, LoRA, Shaping, UpdateSchedule
from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.models.sampler import HFSampler, Sample, Sampling
from lightning_rlhf.modules.ppo import CRITIC, Critic, PPOModule


class Recorded:
    """Return the peer's completions once, so that losses compare; then sample our own."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.recorded = {tuple(row["prompt"]): row for row in rows}
        self.sampler = HFSampler()

    def sample(
        self, backbone: Backbone, role: str, prompts: Sequence[list[int]], sampling: Sampling
    ) -> list[Sample]:
        if not self.recorded:
            return self.sampler.sample(backbone, role, prompts, sampling)
        rows = [self.recorded[tuple(prompt)] for prompt in prompts]
        self.recorded = {}
        return [
            Sample(row["completion"], row["finished"], [0.0] * len(row["completion"]))
            for row in rows
        ]


def build(work: dict[str, Any]) -> PPOModule:
    """Load the module and give it the peer's heads."""
    backbone = Backbone(
        work["model"],
        lora=LoRA(r=16, alpha=32),
        dtype=work["dtype"],
        gradient_checkpointing=work["checkpointing"],
    ).load(work["device"])
    backbone.add_role("reward", head=True)
    record = json.loads(Path(work["model"], "rollout.json").read_text())
    module = PPOModule(
        backbone,
        # the peer puts the score after the end token too
        critic=Critic("head" if "head" in work["side"] else "adapter", score_at="after"),
        sampling=Sampling(max_new_tokens=work["new"]),
        shaping=Shaping(kl_coef=0.05, missing_eos_penalty=1.0),
        updates=UpdateSchedule(epochs=work["epochs"], minibatches=1),
        sampler=Recorded(record),
    )
    module.configure_model()
    for role in ("reward", CRITIC):
        measure.fill([("score.weight", backbone.head(role).weight)])
    return module


def main() -> None:
    work = measure.load()
    imported = measure.mib("VmRSS")
    module = build(work)
    backbone = module.backbone
    optimizer = measure.optimizer(
        [p for role in module.trained for p in backbone.role_parameters(role)], lr=1e-8, eps=1e-5
    )
    batch = PromptBatch(
        [torch.tensor(ids, device=work["device"]) for ids in work["prompts"]],
        ["{}"] * len(work["prompts"]),
    )
    logged: dict[str, list[float]] = {}

    def log(name: str, value: Any, **_: Any) -> None:
        logged.setdefault(name, []).append(float(value))

    def log_dict(values: dict[str, Any], **_: Any) -> None:
        for name, value in values.items():
            log(name, value)

    module.log, module.log_dict = log, log_dict  # type: ignore[method-assign, assignment]

    def step() -> dict[str, float]:
        """Make one rollout with all its updates."""
        logged.clear()
        with measure.autocast(work):
            module.collect_rollout(batch)
        for _ in range(module.updates_per_rollout):
            with measure.autocast(work):
                loss = module.update_loss()
            assert loss is not None
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        gc.collect()  # as the peer does
        return {
            "score": logged["objective/scores"][0],
            "kl": logged["objective/kl"][0],
            "value_loss": sum(logged["value/loss"]) / len(logged["value/loss"]),
            "rollout": logged["time/rollout"][0],
            "length": logged["completions/mean_length"][0],
            "finished": logged["completions/eos_share"][0],
            "imported": imported,
        }

    measure.serve(step, work["device"])


if __name__ == "__main__":
    main()
