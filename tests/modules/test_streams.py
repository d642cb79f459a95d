"""A stream in a Trainer: an end, an exact resume in the middle, validation, epochs of steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rlhf import DPOModule, PreferenceData
from lightning_rlhf.data import streaming
from runs import Runs
from support import number_pairs


class Killed(Exception):
    pass


class Seen(Callback):
    """The rows of each step; may end the run in the middle of it."""

    def __init__(self, kill_at: int | None = None):
        self.rows: list[list[int]] = []
        self.kill_at = kill_at

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self.kill_at:
            raise Killed
        self.rows.append(batch.digest[:, 0].tolist())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files of 20 pairs, read in blocks of 16."""
    monkeypatch.setattr(streaming, "BLOCK", 16)
    folder = tmp_path / "pairs"
    folder.mkdir()
    for i in range(3):
        rows = number_pairs(20, seed=i)
        (folder / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make(runs: Runs, folder: Path, **settings: Any) -> tuple[DPOModule, PreferenceData]:
    torch.manual_seed(0)
    options = {"val_fraction": 0.2, "max_tokens": 40, **settings}
    return DPOModule(runs.backbone(), lr=5e-3), PreferenceData(f"stream:{folder}", **options)


def test_a_run_without_an_end_is_refused(runs: Runs, folder: Path) -> None:
    with pytest.raises(ValueError, match="a stream has no end.*give the Trainer max_steps"):
        runs.trainer(max_epochs=1).fit(*make(runs, folder))


def test_resume_in_mid_stream_is_exact(runs: Runs, folder: Path) -> None:
    def options(name: str, *callbacks: Callback) -> dict[str, Any]:
        kept = ModelCheckpoint(runs.folder / name, every_n_train_steps=4, save_top_k=-1,
                               filename="{step}")  # fmt: skip
        return {
            "max_epochs": None, "max_steps": 14, "accumulate_grad_batches": 2,
            "val_check_interval": 6, "enable_checkpointing": True, "callbacks": [kept, *callbacks],
        }  # fmt: skip

    whole, data = make(runs, folder)
    seen = Seen()
    trainer = runs.trainer(**options("whole", seen))
    trainer.fit(whole, data)
    assert trainer.global_step == 14 and len(seen.rows) == 28
    assert data._stream is not None and data._stream._passes > 0, "more than one pass"
    assert "val/loss" in trainer.callback_metrics

    killed, data = make(runs, folder)
    with pytest.raises(Killed):
        runs.trainer(**options("killed", Seen(kill_at=11))).fit(killed, data)

    resumed, data = make(runs, folder)
    torch.manual_seed(12345)
    rest = Seen()
    trainer = runs.trainer(**options("resumed", rest))
    trainer.fit(resumed, data, ckpt_path=str(runs.folder / "killed" / "step=8.ckpt"))
    assert rest.rows == seen.rows[16:]
    wanted, found = runs.weights(whole), runs.weights(resumed)
    for name in wanted:
        assert torch.equal(wanted[name], found[name]), name


def test_an_epoch_is_a_number_of_batches(runs: Runs, folder: Path) -> None:
    """The next one goes on where it ended."""
    module, data = make(runs, folder)
    seen = Seen()
    runs.trainer(max_epochs=3, limit_train_batches=4, callbacks=[seen]).fit(module, data)
    other = Seen()
    module, data = make(runs, folder)
    runs.trainer(max_epochs=None, max_steps=12, callbacks=[other]).fit(module, data)
    assert seen.rows == other.rows
    assert len({tuple(rows) for rows in seen.rows}) == 12
