"""Predictions become rows on disk."""

from __future__ import annotations

import json

from lightning_rlhf import PromptData
from lightning_rlhf.callbacks import WriteRows
from runs import Runs


def test_predictions_are_rows_on_disk(runs: Runs) -> None:
    file = runs.folder / "rows.jsonl"
    policy, _ = runs.make("sft")
    prompts = PromptData([{"prompt": "w1 w2"}, {"prompt": "w3"}], val_fraction=0, batch_size=1)
    runs.trainer(callbacks=[WriteRows(str(file))]).predict(policy, prompts)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["w1 w2", "w3"]
    assert set(rows[0]) == {"prompt", "completion", "finished"}

    reward, pairs = runs.make("reward", val_fraction=0.0, rows=6)
    runs.trainer(callbacks=[WriteRows(str(file))]).predict(reward, pairs)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 12
    assert all(isinstance(row["score"], float) for row in rows)

    dpo, pairs = runs.make("dpo", val_fraction=0.0, rows=6)
    runs.trainer(callbacks=[WriteRows(str(file))]).predict(dpo, pairs)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [{"reward_chosen": 0.0, "reward_rejected": 0.0}] * 6
