"""Killed anywhere, any number of times, a fit ends in what the unbroken one ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch.utils.data import DataLoader

import kills
import lightning_rlhf as rlhf
from kills import Trial, draw, run
from lightning_rlhf.data import streaming
from methods import METHODS
from runs import Runs
from support import number_pairs

PLAIN = {
    "saver": "end of epoch", "data": "rows", "val": None, "scheduler": "cosine", "accumulate": 1,
    "epochs": 3, "max_steps": -1, "limit_train": None, "limit_val": 1.0, "sanity": 0,
    "clip": None, "early": None, "max_time": None, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return kills.write_base(tmp_path_factory.mktemp("kills") / "base")


@pytest.fixture(autouse=True)
def _blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 8)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("method", METHODS)
def test_drawn_settings_and_kills_change_no_bit(
    base: str, tmp_path: Path, method: str, seed: int
) -> None:
    """The first of ``make bench-kills``."""
    trial = draw(method, seed, kills=1 + seed % 2)
    assert run(base, tmp_path, trial).differs == [], trial


def killed(base: str, folder: Path, kills: list[int], **settings: Any) -> None:
    ended = run(base, folder, Trial("dpo", {**PLAIN, **settings}, tuple(kills)))
    assert ended.kills == len(kills)
    assert ended.differs == []


def test_which_row_order_after_an_epochs_checkpoint(base: str, tmp_path: Path) -> None:
    """From the checkpoint of an epoch's end the next epoch takes the rows in its own order."""
    killed(base, tmp_path, [50])
    killed(base, tmp_path / "again", [60, 55])


@pytest.mark.parametrize("saver", ["every step", "every 2"])
def test_two_kills_at_an_epoch_border(base: str, tmp_path: Path, saver: str) -> None:
    """The second start is from the epoch's last batch, the third from the next epoch."""
    killed(base, tmp_path, [36, 12], saver=saver, epochs=2)


def test_a_kill_inside_an_accumulation(base: str, tmp_path: Path) -> None:
    killed(base, tmp_path, [50, 10, 10], saver="time", accumulate=3)


def test_a_plateau_is_seen_after_a_resume(base: str, tmp_path: Path) -> None:
    killed(base, tmp_path, [40, 30], saver="every 2", scheduler="plateau", val=1.0)


def test_a_validation_that_was_killed_is_made_again(base: str, tmp_path: Path) -> None:
    settings = {"saver": "every step", "val": 2, "early": 1, "limit_val": 2, "epochs": 2}
    for part in (30, 33, 36, 39):
        killed(base, tmp_path / str(part), [part], **settings)


# ---- what cannot be resumed is refused ----


@pytest.mark.parametrize(
    "averaging", [StochasticWeightAveraging(swa_lrs=0.1), EMAWeightAveraging()]
)
def test_averaging_callbacks_are_refused(light: Runs, averaging: Callback) -> None:
    module, data = light.make("sft", rows=8)
    with pytest.raises(ValueError, match="Averaging copies the whole module.*leave it out"):
        light.trainer(callbacks=[averaging]).fit(module, data)


class SaveInside(Callback):
    def __init__(self, path: Path):
        self.path = path

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def test_a_checkpoint_of_a_step_in_progress_is_refused(light: Runs) -> None:
    path = light.folder / "inside.ckpt"
    light.trainer(callbacks=[SaveInside(path)]).fit(*light.make("sft", rows=8))
    with pytest.raises(ValueError, match="inside.ckpt was written inside a step.*resume from one"):
        light.trainer().fit(*light.make("sft", rows=8), ckpt_path=str(path))


class Fails(Callback):
    """An own error; the optimizer may have begun its step."""

    def __init__(self, hook: str):
        setattr(self, hook, self.fail)

    def fail(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            raise RuntimeError


@pytest.mark.parametrize(
    ("hook", "saved"), [("on_before_zero_grad", True), ("on_train_batch_end", False)]
)
def test_an_exception_saves_the_last_whole_step_or_nothing(
    light: Runs, hook: str, saved: bool
) -> None:
    keep = ModelCheckpoint(light.folder / "c", save_on_exception=True, every_n_epochs=9)
    trainer = light.trainer(callbacks=[Fails(hook), keep], enable_checkpointing=True)
    with pytest.raises(RuntimeError):
        trainer.fit(*light.make("sft", rows=24))
    assert bool(list((light.folder / "c").glob("*.ckpt"))) == saved


def test_a_checkpoint_holds_no_more_than_it_needs(base: str, tmp_path: Path) -> None:
    trial = Trial("sft", {**PLAIN, "saver": "every step"}, ())
    kills.start(base, tmp_path, trial, kills.Clock())
    stored = torch.load(kills.newest(tmp_path), weights_only=True)
    state = stored["loops"]["fit_loop"]["state_dict"]["resume"]
    assert state["at"] == "batch"
    assert "gradients" not in state["processes"][0]


class Stateless(rlhf.DemonstrationData):
    """Own data: a loader of torch."""

    def train_dataloader(self) -> Any:
        made = super().train_dataloader()
        return DataLoader(made.dataset, batch_size=2, collate_fn=made.collate_fn)


def test_a_loader_that_cannot_go_to_its_place_is_refused(light: Runs) -> None:
    def fit(path: str | None, **options: Any) -> None:
        module, _ = light.make("sft", rows=8)
        data = Stateless(number_pairs(8), val_fraction=0)
        light.trainer(**options, enable_checkpointing=True).fit(module, data, ckpt_path=path)

    keep = ModelCheckpoint(light.folder, every_n_train_steps=2, filename="{step}")
    fit(None, max_steps=2, callbacks=[keep])
    with pytest.raises(ValueError, match="a DataLoader, cannot go to its place: give a torchdata"):
        fit(str(light.folder / "step=2.ckpt"), max_steps=4)
