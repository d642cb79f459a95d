"""What lies in examples/ does what it says."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
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


def test_every_command_of_constitutional_sh_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs with a command line that only writes down what it was asked; each is then built."""
    monkeypatch.chdir(tmp_path)
    stub = tmp_path / ".venv/bin/lightning-rlhf"
    stub.parent.mkdir(parents=True)
    stub.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "print(json.dumps(sys.argv[1:]), file=open('asked', 'a'))\n"
    )
    stub.chmod(0o755)
    (tmp_path / "out/revisions").mkdir(parents=True)
    (tmp_path / "out/revisions/rows.jsonl").write_text('{"id": "a/r1"}\n')
    subprocess.run(
        ["bash", str(EXAMPLES / "constitutional.sh"), "prompts.jsonl"],
        check=True, env={**os.environ, "OUT": "out"},
    )  # fmt: skip
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    verbs = [verb for verb, *_ in asked]
    assert verbs == ["predict", "build-demonstrations", "fit", "predict", "fit", "trace"]
    assert asked[-1] == ["trace", "a/r1", "out"]
    names = []
    for verb, *args in asked:
        if verb in ("fit", "predict"):
            options = {**cli_options(), "run": False, "save_config_callback": None}
            cli = AlignmentCLI(LightningModule, LightningDataModule, **options, args=args)
            names.append(type(cli.model).__name__)
    assert names == ["SelfCritiqueModule", "SFTModule", "AIFeedbackModule", "DPOModule"]
