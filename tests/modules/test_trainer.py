"""Ours inside other people's code: refusals, tables, predictions, modules around modules."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.precision import BitsandbytesPrecision, FSDPPrecision
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)

from lightning_rlhf import DPOModule, PromptData, RewardModule
from lightning_rlhf.callbacks import SampleTable, SaveRoles, WriteRows
from lightning_rlhf.training.guards import check_trainer
from lightning_rlhf.training.optim import fused_adamw, warmup_cosine
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


def test_lightnings_own_quantization_is_refused(runs: Runs) -> None:
    trainer = runs.trainer()
    trainer.strategy._precision_plugin = BitsandbytesPrecision.__new__(BitsandbytesPrecision)
    with pytest.raises(ValueError, match='would quantize the LoRA matrices.*quantization="nf4"'):
        check_trainer(trainer, None)


@pytest.mark.parametrize(
    ("strategy", "quantization", "refused"),
    [
        (FSDPStrategy, None, True),
        (ModelParallelStrategy, "nf4", True),
        (DeepSpeedStrategy, "nf4", True),
        (DDPStrategy, "nf4", False),
        (DDPStrategy, None, False),
    ],
)
def test_strategies_that_lose_weights_are_refused(
    runs: Runs, strategy: Any, quantization: Any, refused: bool
) -> None:
    trainer = runs.trainer()
    trainer.strategy.__class__ = strategy  # most cannot even be built without a GPU
    if strategy is FSDPStrategy:
        trainer.strategy._precision_plugin = FSDPPrecision("32-true")
    if not refused:
        check_trainer(trainer, quantization)
        return
    with pytest.raises(ValueError, match=f"{strategy.__name__}.*use strategy='ddp'"):
        check_trainer(trainer, quantization)


def test_fused_adamw_can_be_clipped_under_mixed_precision(runs: Runs) -> None:
    """Lightning refuses an optimizer that says it unscales gradients itself."""
    optimizer = fused_adamw([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    assert optimizer.param_groups[0]["fused"]
    assert optimizer.param_groups[0]["weight_decay"] == 0
    module, data = runs.make("sft")
    module.optimizer = lambda params, lr: torch.optim.AdamW(params, lr=lr, fused=True)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        runs.trainer(precision="bf16-mixed", gradient_clip_val=1.0).fit(module, data)


def test_warmup_then_cosine() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler, seen = warmup_cosine(optimizer, steps=100, warmup=0.1), []
    for _ in range(100):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert seen[55] == pytest.approx(0.5)
    assert 0 < seen[-1] < 1e-3


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_loggers_without_tables_get_a_file(runs: Runs, logger: Any) -> None:
    module, data = runs.make("reward")
    log = logger(runs.folder / "log")
    runs.trainer(logger=log, callbacks=[SampleTable(rows=2)], val_check_interval=0.5).fit(
        module, data
    )
    (file,) = runs.folder.rglob("samples.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert list(rows[0]) == ["step", "prompt", "completion", "rank", "score"]
    assert len(rows) == 2 * 2 * 2  # validations, rows, sides
    (hparams,) = (runs.folder / "log").rglob("hparams.yaml")
    assert "centering: 0.0" in hparams.read_text()


@pytest.mark.parametrize("method", OFFLINE)
def test_roles_are_saved_at_the_end(runs: Runs, method: str) -> None:
    module, data = runs.make(method)
    runs.trainer(callbacks=[SaveRoles(str(runs.folder / "out"))], max_steps=1).fit(module, data)
    role = module.trained[0]
    assert (runs.folder / "out" / role / "adapter_model.safetensors").is_file()
    assert (runs.folder / "out" / role / "tokenizer.json").is_file()


def test_predictions_are_rows_on_disk(runs: Runs) -> None:
    file = runs.folder / "rows.jsonl"
    policy, _ = runs.make("sft")
    prompts = PromptData([{"prompt": "w1 w2"}, {"prompt": "w3"}], val_fraction=0, batch_size=1)
    runs.trainer(callbacks=[WriteRows(str(file))]).predict(policy, prompts)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["w1 w2", "w3"]
    assert set(rows[0]) == {"prompt", "completion", "finished"}

    reward, pairs = runs.make("reward", val_fraction=0.0, rows=6)
    runs.trainer(callbacks=[WriteRows(str(file))]).predict(reward, pairs)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 12
    assert all(isinstance(row["score"], float) for row in rows)

    dpo, pairs = runs.make("dpo", val_fraction=0.0, rows=6)
    runs.trainer(callbacks=[WriteRows(str(file))]).predict(dpo, pairs)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [{"reward_chosen": 0.0, "reward_rejected": 0.0}] * 6


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
