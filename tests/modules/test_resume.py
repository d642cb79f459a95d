"""A run killed in mid-epoch and resumed is the run that was never killed, bit for bit."""

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


class Killed(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


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
    """Rows for two epochs of some seven steps: a budget holds many prompts, PPO steps thrice."""
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

    killed, data = runs.make(method, **settings)
    how = options(runs.folder / "killed")
    how["callbacks"].append(KillAt(6))
    with pytest.raises(Killed):
        runs.trainer(**how).fit(killed, data)

    resumed, data = runs.make(method, **settings)
    torch.manual_seed(12345)  # whatever came before a resume must not matter
    trainer = runs.trainer(**options(runs.folder / "resumed"))
    trainer.fit(resumed, data, ckpt_path=str(runs.folder / "killed" / "step=4.ckpt"))
    assert trainer.global_step == steps

    wanted, found = runs.weights(whole), runs.weights(resumed)
    assert wanted.keys() == found.keys()
    for name in wanted:
        assert torch.equal(wanted[name], found[name]), name


@pytest.mark.parametrize("method", ["sft", "dpo", "ppo"])
def test_resume_after_an_epochs_last_step_is_exact(runs: Runs, method: str) -> None:
    """Its loader stands at the end of one epoch: what it yields next is the other."""

    def run(folder: str, **kwargs: Any) -> tuple[int, dict[str, torch.Tensor]]:
        module, data = runs.make(method, rows=24)
        keep = ModelCheckpoint(
            runs.folder / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"
        )
        trainer = runs.trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep])
        trainer.fit(module, data, **kwargs)
        return trainer.global_step, runs.weights(module)

    steps, wanted = run("whole")
    path = runs.folder / "whole" / f"step={steps // 2}.ckpt"
    resumed, found = run("resumed", ckpt_path=str(path))
    assert resumed == steps
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("method", METHODS)
def test_global_generators_come_back(runs: Runs, method: str) -> None:
    """Whatever draws random numbers in a step draws the same ones after a resume."""

    class Draw(Callback):
        def __init__(self) -> None:
            self.drawn: dict[int, float] = {}

        def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
            self.drawn[trainer.global_step] = torch.rand(()).item()

    def run(folder: str, **kwargs: Any) -> dict[int, float]:
        module, data = runs.make(method, rows=enough(method, {}))
        how, draw = options(runs.folder / folder), Draw()
        how["callbacks"].append(draw)
        runs.trainer(**how).fit(module, data, **kwargs)
        return draw.drawn

    whole = run("whole")
    resumed = run("resumed", ckpt_path=str(runs.folder / "whole" / "step=4.ckpt"))
    assert resumed == {step: value for step, value in whole.items() if step >= 4}
