"""Every rollout's rows are in the file once, also after kills and resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from fakes import COLUMNS, FakeOnline, Killed
from lightning_rlhf.callbacks import RolloutTable
from lightning_rlhf.callbacks.rollout_file import reopen


class Kill(Callback):
    """Raises before, or in the middle of, an update."""

    def __init__(self, step: int, hook: str):
        self.step = step
        setattr(self, hook, self._kill)

    def _kill(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def fit(
    folder: Path,
    *callbacks: Callback,
    steps: int = 24,
    table: RolloutTable | None = None,
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> FakeOnline:
    module = FakeOnline()
    checkpoint = ModelCheckpoint(
        folder / "checkpoints", every_n_train_steps=5, save_top_k=-1, filename="{step}"
    )
    options: dict[str, Any] = {
        "max_epochs": -1,
        "max_steps": steps,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": CSVLogger(folder, version=0),
        "callbacks": [table or RolloutTable(), *callbacks, checkpoint],
    }
    Trainer(**{**options, **kwargs}).fit(module, ckpt_path=ckpt_path)
    return module


def rows(folder: Path, name: str = "rollouts.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def expected(rollouts: int, updates: int = 2, rank: int = 0) -> list[dict[str, Any]]:
    module, found = FakeOnline(), []
    for rollout in range(1, rollouts + 1):
        module.rollouts_made = rollout
        step = updates * (rollout - 1) + 1  # told right after the first update
        for row in module.rollout_table().rows:
            found.append({"step": step, "rollout": rollout, **dict(zip(COLUMNS, row, strict=True))})
    return found


def test_every_row_of_every_rollout(tmp_path: Path) -> None:
    fit(tmp_path)
    assert rows(tmp_path) == expected(12)
    assert list(rows(tmp_path)[0]) == ["step", "rollout", *COLUMNS]


@pytest.mark.parametrize(
    "hook", ["on_train_batch_start", "on_before_backward", "on_train_batch_end"]
)
@pytest.mark.parametrize("step", [6, 9, 10, 11])
def test_killed_and_resumed(step: int, hook: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Kill(step, hook))
    before = rows(tmp_path)
    assert before == expected(12)[: len(before)]  # what was made is there at once
    newest = max((tmp_path / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns)
    assert fit(tmp_path, ckpt_path=newest).rollouts_made == 12
    assert rows(tmp_path) == expected(12)


def test_an_older_checkpoint_cuts_what_came_after(tmp_path: Path) -> None:
    fit(tmp_path)
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 25, "rollout": 13, "prom')  # killed while it wrote
    first = tmp_path / "checkpoints" / "step=5.ckpt"
    with pytest.raises(Killed):
        fit(tmp_path, Kill(5, "on_train_batch_start"), ckpt_path=first)
    assert rows(tmp_path) == [row for row in expected(12) if row["rollout"] <= 3]
    fit(tmp_path, ckpt_path=first)
    assert rows(tmp_path) == expected(12)


def test_a_resume_elsewhere_takes_the_rows_along(tmp_path: Path) -> None:
    fit(tmp_path / "old", steps=20)
    fit(tmp_path / "new", ckpt_path=tmp_path / "old" / "checkpoints" / "step=10.ckpt")
    assert rows(tmp_path / "new") == expected(12)
    assert rows(tmp_path / "old") == expected(10)


def test_a_checkpoint_written_as_the_run_dies(tmp_path: Path) -> None:
    """The current rollout is in the checkpoint but not yet in the file: it is written on resume."""
    save = OnExceptionCheckpoint(tmp_path / "dying")
    with pytest.raises(Killed):
        fit(tmp_path, save, Kill(8, "on_before_backward"))
    assert rows(tmp_path)[-1]["rollout"] == 4
    fit(tmp_path, ckpt_path=next((tmp_path / "dying").glob("*.ckpt")))
    assert [row["rollout"] for row in rows(tmp_path)] == [row["rollout"] for row in expected(12)]


def test_a_new_run_sets_an_old_file_aside(tmp_path: Path) -> None:
    fit(tmp_path, steps=4)
    fit(tmp_path, steps=8)
    assert rows(tmp_path) == expected(4)
    assert rows(tmp_path, "rollouts.jsonl.old") == expected(2)


def test_a_checkpoint_without_the_table(tmp_path: Path) -> None:
    """If it is added later, it begins with the next rollout."""
    fit(tmp_path, callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=6, filename="x")])
    fit(tmp_path / "with", ckpt_path=tmp_path / "x.ckpt", steps=30)
    assert rows(tmp_path / "with") == expected(15)[len(expected(12)) :]


def test_one_callback_in_two_runs(tmp_path: Path) -> None:
    table = RolloutTable()
    for folder in ("a", "b"):
        fit(tmp_path / folder, table=table)
        assert rows(tmp_path / folder) == expected(12)


def test_in_wandb_each_rollout_adds_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real offline run: increments that hold the new rows only, and together all of them."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=tmp_path, project="tests", offline=True)
    fit(tmp_path, logger=logger, steps=8, table=RolloutTable(rows=2))
    run = logger.experiment
    folder, summary = Path(run.dir), dict(run.summary["rollouts"])
    run.finish()
    assert summary["log_mode"] == "INCREMENTAL" and summary["increment_num"] == 3
    files = sorted(folder.glob("media/table/rollouts_*.json"), key=lambda f: f.stat().st_mtime_ns)
    tables = [json.loads(file.read_text()) for file in files]
    wanted = [[list(r.values()) for r in expected(4) if r["rollout"] == i][:2] for i in range(1, 5)]
    assert [table["data"] for table in tables] == wanted
    assert {tuple(table["columns"]) for table in tables} == {("step", "rollout", *COLUMNS)}


def test_other_loggers(tmp_path: Path) -> None:
    """TensorBoard gets Markdown; one with ``log_table`` of its own a table per step."""

    class Tabular(CSVLogger):
        def log_table(self, key: str, columns: list[str], data: list[Any], step: int) -> None:
            seen.append((key, columns, data, step))

    seen: list[Any] = []
    board = TensorBoardLogger(tmp_path / "board")
    fit(
        tmp_path, logger=[board, Tabular(tmp_path)], steps=8, table=RolloutTable(every_n_rollouts=3)
    )
    first, fourth = ([list(r.values()) for r in expected(4) if r["rollout"] == i] for i in (1, 4))
    columns = ["step", "rollout", *COLUMNS]
    assert seen == [("rollouts", columns, first, 1), ("rollouts", columns, fourth, 7)]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(board.log_dir)
    events.Reload()
    texts = events.Tensors("rollouts/text_summary")
    assert [text.step for text in texts] == [1, 7]
    lines = texts[0].tensor_proto.string_val[0].decode().splitlines()
    assert len(lines) == 2 + len(first)
    assert lines[0] == "| step | rollout | prompt | completion | score | kl | length | finished |"


def test_rows_left_in_half_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"rollout": 1}\n{"rollout": 2}\n{"rollout": 2, "a"')
    reopen(file, 2)
    assert file.read_bytes() == b'{"rollout": 1}\n{"rollout": 2}\n'
    reopen(file, 1)
    assert file.read_bytes() == b'{"rollout": 1}\n'


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"every_n_rollouts": 0}], ids=str)
def test_wrong_arguments_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(
        ValueError, match=f"RolloutTable's {next(iter(wrong))} is 0: give at least 1"
    ):
        RolloutTable(**wrong)


SCRIPT = """
import sys
from pathlib import Path
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from fakes import HEALTHY, FakeOnline
from lightning_rlhf.callbacks import Doctor, RolloutTable

torch.set_num_threads(1)
folder = Path(sys.argv[1])

def fit(steps, log, doctor, **kwargs):
    module = FakeOnline(log)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=-1, max_steps=steps, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[RolloutTable(), doctor, ModelCheckpoint(folder / "checkpoints",
                   every_n_train_steps=5, save_top_k=-1, filename="{step}")],
    )
    trainer.fit(module, **kwargs)
    return module

fit(12, None, Doctor())
fit(20, None, Doctor(), ckpt_path=folder / "checkpoints" / "step=5.ckpt")
# only process 0 is ill: both stop, at the same step
def ill(i):
    import torch.distributed as d
    return {**HEALTHY, "policy/first_ratio_error": 0.5 * (d.get_rank() == 0 and i >= 15)}
module = fit(400, ill, Doctor(action="stop"), ckpt_path=folder / "checkpoints" / "step=20.ckpt")
(folder / f"stopped.{module.global_rank}").write_text(str(module.rollouts_made))
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Each process has a file, which is cut on resume; the doctor of process 0 decides for both."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    made = [rows(tmp_path, f"rollouts.{rank}.jsonl") for rank in (0, 1)]
    for found in made:
        assert [r["rollout"] for r in found] == [r["rollout"] for r in expected(16)]
    assert made[0] == expected(16)
    assert made[0] != made[1]  # other rows in each
    assert [(tmp_path / f"stopped.{rank}").read_text() for rank in (0, 1)] == ["16", "16"]
    (entry,) = [json.loads(line) for line in (tmp_path / "doctor.jsonl").read_text().splitlines()]
    assert (entry["illness"], entry["rollout"]) == ("first_ratio", 15)
