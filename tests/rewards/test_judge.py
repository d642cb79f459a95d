"""A judge's ratings as a reward."""

from __future__ import annotations

from lightning_rlhf import GRPOModule, JudgeReward, PromptData, Sampling
from runs import Runs
from support import number_pairs


def prompts(n: int = 8) -> list[dict[str, str]]:
    return [{"prompt": row["prompt"]} for row in number_pairs(n)]


def test_a_judge_is_a_reward(runs: Runs) -> None:
    """GRPO learns from ratings of 1 to 10 by the bare base."""
    reward = JudgeReward(question="w1 {answer}", end="", template="raw")
    module = GRPOModule(runs.backbone(), reward, sampling=Sampling(6, num_samples=2), lr=1e-3)
    trainer = runs.trainer(max_steps=2, max_epochs=-1)
    trainer.fit(module, PromptData(prompts(), val_fraction=0, batch_size=4))
    assert -1 <= float(trainer.callback_metrics["objective/scores"]) <= 1
    assert "judge" in module.backbone.roles
