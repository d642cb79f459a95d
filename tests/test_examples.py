"""What lies in examples/ does what it says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from pytorch_lightning import Callback, Trainer

from support import number_pairs

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_custom_reward_is_learnt(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in number_pairs(64)))
    scores: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: object, *_: object) -> None:
            scores.append(float(trainer.callback_metrics["objective/scores"]))

    plain = Trainer.__init__

    def watched(self: Trainer, *args: object, **kwargs: object) -> None:
        quiet = {"enable_progress_bar": False, "enable_checkpointing": False}
        plain(self, *args, **{**kwargs, **quiet}, callbacks=[Watch()])  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "__init__", watched)
    main = runpy.run_path(str(EXAMPLES / "custom_reward.py"))["main"]
    main(tiny_base, str(file), "w7", rollouts=20)
    assert len(scores) == 20
    assert sum(scores[-4:]) / 4 > sum(scores[:4]) / 4 + 0.3
    assert (tmp_path / "runs/custom_reward/adapter_config.json").is_file()
