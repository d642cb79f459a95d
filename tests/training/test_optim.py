"""Optimizer options reach every method, its flags and its checkpoints; the default optimizer."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule

from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
from lightning_rlhf.training.hparams import describe
from lightning_rlhf.training.optim import OptimizerOptions, fused_adamw, warmup_cosine
from methods import METHODS, TITLES
from runs import Runs

BASE = ["--model.backbone=lightning_rlhf.Backbone", "--model.backbone.name_or_path=base"]


def build(method: str, *args: str) -> LightningModule:
    options = {**cli_options(), "run": False, "save_config_callback": None}
    here = ["--trainer.accelerator=cpu", "--data=lightning_rlhf.PromptData", "--data.source=none"]
    cli = AlignmentCLI(
        LightningModule,
        LightningDataModule,
        **options,
        args=[*here, f"--model={method}", *BASE, *args],
    )
    assert isinstance(cli.model, LightningModule)
    return cli.model


def test_the_typed_options_are_the_bases_own() -> None:
    hints = get_type_hints(AlignmentModule.__init__)
    tail = list(inspect.signature(AlignmentModule).parameters)[2:]
    assert {name: hints[name] for name in tail} == get_type_hints(OptimizerOptions)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_and_takes_them(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    title = TITLES[method]
    rate = inspect.signature(METHODS[method].module).parameters["lr"].default
    with pytest.raises(SystemExit):
        build(title, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert printed["lr"] == rate
    defaults = [printed[name] for name in OptimizerOptions.__annotations__]
    assert defaults == [0.1, None, None]

    module = build(title, "--model.warmup=0.3", "--model.optimizer=torch.optim.SGD")
    described = describe(module)
    assert described["lr"] == rate
    assert described["warmup"] == 0.3
    assert described["lr_scheduler"] is None
    assert callable(module.optimizer)


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
