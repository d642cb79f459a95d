"""Samples of a validation, in a file where the logger has no tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_rlhf.callbacks import SampleTable
from runs import Runs


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
