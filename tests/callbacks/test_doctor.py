"""Doctor in a real Trainer: each illness is reported once, also after a kill and a resume."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from fakes import HEALTHY, ILL, FakeOnline, Killed, figures
from lightning_rlhf.callbacks import Doctor
from lightning_rlhf.callbacks.diagnoses import DIAGNOSES


class KillAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def trainer(folder: Path, *callbacks: Callback, rollouts: int = 30, **kwargs: Any) -> Trainer:
    options: dict[str, Any] = {
        "max_epochs": -1,
        "max_steps": 2 * rollouts,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": CSVLogger(folder, version=0),
        "callbacks": [*callbacks, ModelCheckpoint(folder / "checkpoints", every_n_train_steps=7,
                                                  save_top_k=-1, filename="{step}")],
        "default_root_dir": folder,
    }  # fmt: skip
    return Trainer(**{**options, **kwargs})


def entries(folder: Path) -> list[dict[str, Any]]:
    file = folder / "doctor.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("name", ILL)
def test_it_names_each_illness_once(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="pytorch_lightning"):
        trainer(tmp_path, Doctor()).fit(FakeOnline(lambda i: figures(name, i)))
    (entry,) = entries(tmp_path)
    assert (entry["illness"], entry["event"]) == (name, "found")
    assert entry["advice"] == DIAGNOSES[name].advice
    assert entry["step"] == min(2 * entry["rollout"] + 1, 60)
    said = [r.getMessage() for r in caplog.records if name in r.getMessage()]
    assert said == [f"{name}, rollout {entry['rollout']}: {entry['sentence']}. {entry['advice']}"]


def test_a_healthy_run_leaves_no_word(tmp_path: Path) -> None:
    doctor = Doctor()
    trainer(tmp_path, doctor).fit(FakeOnline())
    assert entries(tmp_path) == []
    assert doctor.examined == len(doctor.history) == 30


def test_an_illness_that_comes_back_is_a_new_one(tmp_path: Path) -> None:
    """An illness is over after a window of healthy rollouts, not after a shorter pause."""

    def log(i: int) -> dict[str, float]:
        ill = i in (5, 6, 9, 30)
        return {**HEALTHY, "policy/first_ratio_error": 0.5 if ill else 0.0}

    trainer(tmp_path, Doctor(window=6), rollouts=40).fit(FakeOnline(log))
    found = [(e["rollout"], e["event"]) for e in entries(tmp_path)]
    assert found == [(5, "found"), (15, "over"), (30, "found"), (36, "over")]


def test_it_stops_the_run(tmp_path: Path) -> None:
    module = FakeOnline(lambda i: figures("clipping", i))
    trainer(tmp_path, Doctor(action="stop")).fit(module)
    (entry,) = entries(tmp_path)
    assert entry["rollout"] in (25, 26, 27)
    assert module.rollouts_made == entry["rollout"] + 1  # reported at the first update of the next


def test_it_writes_one_checkpoint_per_illness(tmp_path: Path) -> None:
    def log(i: int) -> dict[str, float]:
        return {**HEALTHY, "policy/first_ratio_error": 0.5 if i in (3, 20) else 0.0}

    trainer(tmp_path, Doctor("checkpoint", window=5)).fit(FakeOnline(log))
    (file,) = (tmp_path / "checkpoints").glob("doctor-*.ckpt")
    assert file.name == "doctor-first_ratio-step=7.ckpt"
    assert [e["event"] for e in entries(tmp_path)] == ["found", "over", "found", "over"]
    doctor, module = Doctor("checkpoint", window=5), FakeOnline(log)
    trainer(tmp_path / "again", doctor).fit(module, ckpt_path=file)
    assert module.rollouts_made == doctor.examined == 30
    assert entries(tmp_path / "again") == entries(tmp_path)
    assert not list((tmp_path / "again" / "checkpoints").glob("doctor-*.ckpt"))


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("name", ["eos_falling", "reward_hacking"])
def test_a_killed_run_says_what_an_unbroken_one_says(
    name: str, elsewhere: bool, tmp_path: Path
) -> None:
    """Killed before the illness, after it was found, and between two updates."""

    def fit(folder: Path, *callbacks: Callback, **kwargs: Any) -> Doctor:
        doctor = Doctor(window=5)
        module = FakeOnline(lambda i: figures(name, i))
        trainer(folder, doctor, *callbacks).fit(module, **kwargs)
        return doctor

    whole = fit(tmp_path / "whole")
    killed = tmp_path / "killed"
    for step in (30, 51):
        checkpoints = sorted(killed.rglob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns)
        with pytest.raises(Killed):
            fit(killed, KillAt(step), ckpt_path=checkpoints[-1] if checkpoints else None)
    last = killed / "checkpoints" / "step=49.ckpt"
    folder = tmp_path / "elsewhere" if elsewhere else killed
    resumed = fit(folder, ckpt_path=last)
    assert entries(folder) == entries(tmp_path / "whole")
    assert len(entries(folder)) == 1
    assert resumed.history == whole.history
    assert torch.load(last, weights_only=True)["callbacks"]["Doctor"]["examined"] == 24


def test_what_it_remembers_is_bounded(tmp_path: Path) -> None:
    doctor = Doctor(window=2)
    log = {"objective/scores": float}
    trainer(tmp_path, doctor, rollouts=60).fit(
        FakeOnline(lambda i: {name: make(i) for name, make in log.items()}, updates=1),
    )
    kept = [row["objective/scores"] for row in doctor.history]
    assert doctor.examined == 120
    assert kept == [1, 2, 3, 4, *range(101, 121)]


def test_a_rollouts_figures_are_those_of_its_updates(tmp_path: Path) -> None:
    """The largest ratio error, the mean of figures of policy and critic, the last of others."""
    module = FakeOnline()
    module.figures = lambda i: {  # left: 1 at a rollout's first update, 0 at its second
        "policy/first_ratio_error": 5e-5 * module.left,
        "policy/clipfrac": 0.1 * module.left,
        "objective/kl": 3.0 - module.left,
    }
    doctor = Doctor()
    trainer(tmp_path, doctor, rollouts=3).fit(module)
    assert len(doctor.history) == 3
    for row in doctor.history:
        assert row == pytest.approx(
            {"policy/first_ratio_error": 5e-5, "policy/clipfrac": 0.05, "objective/kl": 3.0}
        )


def test_half_precision_gets_room(tmp_path: Path) -> None:
    """1e-4 if all is fp32, else 0.2; a given tolerance always wins."""

    def heard(folder: str, doctor: Doctor, dtype: torch.dtype) -> int:
        module = FakeOnline(lambda i: {**HEALTHY, "policy/first_ratio_error": 0.1})
        module.frozen = torch.nn.Parameter(torch.zeros(1, dtype=dtype), requires_grad=False)
        trainer(tmp_path / folder, doctor, rollouts=3).fit(module)
        return len(entries(tmp_path / folder))

    assert heard("full", Doctor(), torch.float32) == 1
    assert heard("half", Doctor(), torch.bfloat16) == 0
    assert heard("told", Doctor(ratio_tolerance=0.05), torch.bfloat16) == 1


def test_a_figure_to_watch_that_nobody_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="pytorch_lightning"):
        trainer(tmp_path, Doctor(watch="val/oracel"), rollouts=3).fit(FakeOnline())
    assert "was to watch val/oracel, which nobody logged" in caplog.text


def test_loggers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    board = TensorBoardLogger(tmp_path / "board")
    wandb = WandbLogger(save_dir=tmp_path, project="tests", offline=True)
    module = FakeOnline(lambda i: {**HEALTHY, "policy/first_ratio_error": 0.5})
    trainer(tmp_path, Doctor(), rollouts=3, logger=[board, wandb]).fit(module)
    folder = Path(wandb.experiment.dir)
    wandb.experiment.finish()
    (table,) = folder.glob("media/table/doctor*.json")
    found = json.loads(table.read_text())
    (entry,) = entries(tmp_path)
    assert found == {"columns": list(entry), "data": [list(entry.values())]}

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir)
    events.Reload()
    (text,) = events.Tensors("doctor/text_summary")
    (said,) = text.tensor_proto.string_val
    assert entry["sentence"] in said.decode()


def test_a_module_without_rollouts_is_left_alone(tmp_path: Path) -> None:
    class Offline(FakeOnline):
        def __init__(self) -> None:
            super().__init__()
            del self.rollouts_made

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("objective/kl", -5.0)
            return self.weight.sum()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            pass

    trainer(tmp_path, Doctor()).fit(Offline())
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [{"action": "shout"}, {"window": 1}, {"length_factor": 1.0}], ids=str
)
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Doctor's {next(iter(wrong))}"):
        Doctor(**wrong)
