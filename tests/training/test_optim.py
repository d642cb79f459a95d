"""Optimizer options reach every method, its flags and its checkpoints, though written down once."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
import yaml
from pytorch_lightning import LightningDataModule, LightningModule

from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
from lightning_rlhf.training.hparams import describe
from lightning_rlhf.training.optim import OptimizerOptions
from methods import METHODS, TITLES

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
