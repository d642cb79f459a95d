"""Modules train for real: from a fixed seed, on rows never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import seed_everything

from lightning_rlhf import Backbone, DPOModule, LoRA, PreferenceData, RewardModule, SFTModule
from lightning_rlhf.functional import dpo
from methods import METHODS
from runs import Runs
from support import number_pairs, shared


def fitted(runs: Runs, method: str, quantization: Any = None, **kwargs: Any) -> dict[str, float]:
    seed_everything(0, verbose=False)
    made = METHODS[method]
    trainer = runs.trainer(max_epochs=3, gradient_clip_val=1.0, check_val_every_n_epoch=3)
    backbone = runs.backbone(quantization=quantization, lora=LoRA(r=8))
    trainer.fit(
        made.module(backbone, lr=1e-2, **kwargs),
        made.data(number_pairs(400), val_fraction=0.2, batch_size=16),
    )
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def test_sft_learns_which_words_answers_have(runs: Runs) -> None:
    metrics = fitted(runs, "sft")
    assert metrics["val/perplexity"] < 35  # of 64 words 25 are ever used, and the end token


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_reward_tells_unseen_pairs_apart(runs: Runs, quantization: Any) -> None:
    metrics = fitted(runs, "reward", quantization)
    assert metrics["val/rewards/accuracies"] > 0.85
    assert metrics["val/rewards/margins"] > 1


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_dpo_prefers_on_unseen_pairs(runs: Runs, quantization: Any) -> None:
    metrics = fitted(runs, "dpo", quantization)
    assert metrics["val/rewards/accuracies"] > 0.85
    assert metrics["val/loss"] < 0.5


@pytest.mark.parametrize(
    "loss",
    [dpo.ipo_loss, dpo.hinge_loss, dpo.simpo_loss, dpo.orpo_loss, dpo.apo_zero_loss, dpo.aot_loss],
)
def test_every_family_of_losses_ranks_unseen_pairs(runs: Runs, loss: Any) -> None:
    beta = {dpo.simpo_loss: 2.0, dpo.orpo_loss: 2.0}.get(loss, 0.1)
    assert fitted(runs, "dpo", loss=loss, beta=beta)["val/rewards/accuracies"] > 0.75


def test_rankings_of_k_train_a_reward(runs: Runs) -> None:
    seed_everything(0, verbose=False)
    rows = [
        {
            "prompt": row["prompt"],
            "completions": [row["chosen"], f"{row['chosen']} {row['rejected']}", row["rejected"]],
            "ranks": [0, 1, 2],
        }
        for row in number_pairs(200)
    ]
    for ranking in ("pairs", "plackett_luce"):
        trainer = runs.trainer(max_epochs=4)
        data = PreferenceData(rows, val_fraction=0.2, batch_size=8)
        trainer.fit(RewardModule(runs.backbone(), ranking=ranking, lr=1e-2), data)
        assert trainer.callback_metrics["val/rewards/accuracies"] > 0.85, ranking


@pytest.mark.slow
def test_xstest_refusals_are_told_from_compliance(tmp_path: Path) -> None:
    """Human-labeled answers to unsafe prompts; a 260k-parameter base; split by prompt."""
    base = shared("data/stories260k")
    rows = [
        {k: row[k] for k in ("prompt", "chosen", "rejected")}
        for row in map(json.loads, shared("data/xstest/pairs.jsonl").read_text().splitlines())
        if row["kind"] == "unsafe"
    ]
    seed_everything(0, verbose=False)
    runs = Runs(str(base), tmp_path)
    data = PreferenceData(rows, val_fraction=0.3, batch_size=8, max_length=160)
    trainer = runs.trainer(max_epochs=3)
    trainer.fit(RewardModule(Backbone(str(base), dtype="float32"), lr=2e-3), data)
    assert data.val_rows is not None
    assert len(data.val_rows) >= 30
    assert trainer.callback_metrics["val/rewards/accuracies"] >= 0.9


def test_full_fine_tuning_then_lora_on_the_result(runs: Runs) -> None:
    """The story of the quickstart in small: whole model first, roles on its result."""
    seed_everything(0, verbose=False)
    _, data = runs.make("sft", rows=400)
    module = SFTModule(runs.backbone(lora=None), lr=5e-3)
    runs.trainer(max_epochs=3).fit(module, data)
    folder = module.backbone.save_role("policy", runs.folder / "sft")
    backbone = Backbone(str(folder), dtype="float32")
    pairs = PreferenceData(number_pairs(400), val_fraction=0.2, batch_size=16)
    for method in (RewardModule(backbone, lr=1e-2), DPOModule(backbone, lr=5e-3)):
        trainer = runs.trainer()
        trainer.fit(method, pairs)
        assert trainer.callback_metrics["val/rewards/accuracies"] > 0.85
    assert set(backbone.roles) == {"reward", "policy", "reference"}
    assert not backbone.roles["reference"].adapter  # the SFT model itself, at no cost
