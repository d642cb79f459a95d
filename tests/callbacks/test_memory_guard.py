"""The guard plans every fit and stops one that does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_rlhf import Backbone, DPOModule, LoRA, MemoryGuard, PreferenceData
from lightning_rlhf.callbacks import memory_guard as guard
from lightning_rlhf.planning.plan import GIB
from runs import Runs
from support import number_pairs


def test_a_run_that_cannot_fit_says_so_before_it_loads(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "free_memory", lambda device: 0.5 * 2**20)
    module = DPOModule(runs.backbone())
    data = PreferenceData(number_pairs(16), val_fraction=0, batch_size=8)
    with pytest.raises(ValueError) as refused:
        runs.trainer(callbacks=[MemoryGuard()]).fit(module, data)
    said = str(refused.value)
    assert said.startswith("this run would take 0.0")
    assert "GiB in its largest step and 0.00 are free: " in said
    assert not module.backbone.is_loaded
    monkeypatch.setattr(guard, "free_memory", lambda device: float(GIB))
    runs.trainer(callbacks=[MemoryGuard()], max_steps=1).fit(module, data)


def test_the_guard_takes_the_longest_rows_together(runs: Runs) -> None:
    backbone = Backbone(runs.base, lora=LoRA(r=4))
    rows = [{"prompt": "w1 " * n, "chosen": "w2", "rejected": "w3"} for n in (3, 9, 5, 12, 7)]
    data = PreferenceData(rows, val_fraction=0, batch_size=2, tokenizer=backbone.tokenizer)
    data.setup()
    assert guard.longest(data) == [(12, 2, 2), (9, 2, 2)]
    data = PreferenceData(rows, val_fraction=0, max_tokens=30, tokenizer=backbone.tokenizer)
    data.setup()
    assert guard.longest(data) == [(12, 2, 2), (9, 2, 2)]


def test_a_plan_that_cannot_be_made_stops_nobody(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("an odd model")

    monkeypatch.setattr(guard, "run_of", fails)
    data = PreferenceData(number_pairs(16), val_fraction=0, batch_size=8)
    with caplog.at_level("INFO"):
        runs.trainer(callbacks=[MemoryGuard()], max_steps=1).fit(DPOModule(runs.backbone()), data)
    assert "no plan of this run's memory: RuntimeError: an odd model" in caplog.text
