"""A run that stops in mid-epoch and is resumed ends in the same bits as an unbroken run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from methods import METHODS, ONLINE
from runs import Runs


@pytest.fixture
def runs(light: Runs) -> Runs:
    return light


class Stopped(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Stopped


def options(folder: Path) -> dict[str, Any]:
    return {
        "max_epochs": 2,
        "val_check_interval": 3,
        "limit_val_batches": 1,
        "gradient_clip_val": 1.0,
        "enable_checkpointing": True,
        "callbacks": [
            ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1, filename="{step}")
        ],
    }


def enough(method: str, settings: dict[str, Any]) -> int:
    """Number of rows for two epochs of about seven steps: PPO takes three steps a batch."""
    rows = 40 if "max_tokens" not in settings else 96 if method in ONLINE else 48
    return rows // 2 if method == "ppo" else rows


@pytest.mark.parametrize("settings", [{}, {"quantization": "nf4"}, {"max_tokens": 30}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_resume_in_mid_epoch_is_exact(runs: Runs, method: str, settings: dict[str, Any]) -> None:
    settings = {**settings, "rows": enough(method, settings)}
    whole, data = runs.make(method, **settings)
    trainer = runs.trainer(**options(runs.folder / "whole"))
    trainer.fit(whole, data)
    steps = trainer.global_step
    assert steps > 12  # several checkpoints, two epochs

    stopped, data = runs.make(method, **settings)
    arguments = options(runs.folder / "stopped")
    arguments["callbacks"].append(StopAt(6))
    with pytest.raises(Stopped):
        runs.trainer(**arguments).fit(stopped, data)

    resumed, data = runs.make(method, **settings)
    torch.manual_seed(12345)  # what came before a resume must not matter
    trainer = runs.trainer(**options(runs.folder / "resumed"))
    trainer.fit(resumed, data, ckpt_path=str(runs.folder / "stopped" / "step=4.ckpt"))
    assert trainer.global_step == steps

    expected, actual = runs.weights(whole), runs.weights(resumed)
    assert expected.keys() == actual.keys()
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


@pytest.mark.parametrize("method", ["sft", "dpo", "ppo"])
def test_resume_after_an_epochs_last_step_is_exact(runs: Runs, method: str) -> None:
    """The loader stands at the end of one epoch: it must continue with the next."""

    def run(folder: str, **kwargs: Any) -> tuple[int, dict[str, torch.Tensor]]:
        module, data = runs.make(method, rows=24)
        keep = ModelCheckpoint(
            runs.folder / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"
        )
        trainer = runs.trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep])
        trainer.fit(module, data, **kwargs)
        return trainer.global_step, runs.weights(module)

    steps, expected = run("whole")
    path = runs.folder / "whole" / f"step={steps // 2}.ckpt"
    resumed, actual = run("resumed", ckpt_path=str(path))
    assert resumed == steps
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("method", METHODS)
def test_global_generators_come_back(runs: Runs, method: str) -> None:
    """Code that draws random numbers in a step draws the same ones after a resume."""

    class Draw(Callback):
        def __init__(self) -> None:
            self.drawn: dict[int, float] = {}

        def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
            self.drawn[trainer.global_step] = torch.rand(()).item()

    def run(folder: str, **kwargs: Any) -> dict[int, float]:
        module, data = runs.make(method, rows=enough(method, {}))
        arguments, draw = options(runs.folder / folder), Draw()
        arguments["callbacks"].append(draw)
        runs.trainer(**arguments).fit(module, data, **kwargs)
        return draw.drawn

    whole = run("whole")
    resumed = run("resumed", ckpt_path=str(runs.folder / "whole" / "step=4.ckpt"))
    assert resumed == {step: value for step, value in whole.items() if step >= 4}
