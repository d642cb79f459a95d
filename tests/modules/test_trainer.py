"""Modules in a Trainer: names of metrics, a module around a module, two modules on one base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule

from lightning_rlhf import DPOModule, RewardModule
from methods import METHODS, OFFLINE
from runs import Runs


@pytest.mark.parametrize("method", OFFLINE)
def test_metrics_have_their_names(runs: Runs, method: str) -> None:
    module, data = runs.make(method)
    trainer = runs.trainer()
    trainer.fit(module, data)
    names = METHODS[method].metrics | {"loss"}
    wanted = {f"{stage}/{name}" for stage in ("train", "val") for name in names}
    extra = {"val/calibration_error"} if method == "reward" else set()
    assert set(trainer.callback_metrics) == wanted | extra
    trainer.test(module, data, verbose=False)
    assert {f"test/{name}" for name in names} <= set(trainer.callback_metrics)


class Holder(LightningModule):
    """Somebody's own module: ours for the preferences, a penalty of their own."""

    def __init__(self, inner: DPOModule):
        super().__init__()
        self.inner = inner
        self.strict_loading = False

    def configure_model(self) -> None:
        self.inner.configure_model()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        penalty = sum(p.square().sum() for p in self.inner.backbone.role_parameters("policy"))
        self.log("train/penalty", penalty)
        return self.inner.training_step(batch, batch_idx) + 1e-6 * penalty

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.inner.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return self.inner.configure_optimizers()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.inner.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.inner.on_load_checkpoint(checkpoint)


def test_a_module_inside_a_module_trains_logs_saves_and_resumes(runs: Runs) -> None:
    inner, data = runs.make("dpo", rows=96)
    assert isinstance(inner, DPOModule)
    trainer = runs.trainer(max_epochs=2)
    trainer.fit(Holder(inner), data)
    metrics = trainer.callback_metrics
    assert {"train/penalty", "train/rewards/margins", "val/loss"} <= set(metrics)
    assert metrics["val/rewards/margins"] > 0
    path = runs.folder / "holder.ckpt"
    trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(key.startswith("inner.backbone.") and ".lora_" in key for key in state)

    again, data = runs.make("dpo", rows=96)
    assert isinstance(again, DPOModule)
    trainer = runs.trainer(max_epochs=3)
    trainer.fit(Holder(again), data, ckpt_path=str(path))
    assert trainer.global_step == 3 * 18
    assert trainer.callback_metrics["val/rewards/margins"] > 0


def test_methods_share_one_base_in_memory(runs: Runs) -> None:
    dpo, data = runs.make("dpo")
    runs.trainer(max_steps=2).fit(dpo, data)
    base = dpo.backbone.base
    reward = RewardModule(dpo.backbone, lr=1e-3)
    before = runs.weights(dpo)
    runs.trainer(max_steps=2).fit(reward, data)
    assert dpo.backbone.base is base
    assert all(torch.equal(before[n], p) for n, p in runs.weights(dpo).items())
