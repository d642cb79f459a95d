"""The command line as a user types it."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_rlhf.cli.main import LIGHTNING, VERBS, main
from lightning_rlhf.models.backbone import Backbone
from support import NUMBERS, number_pairs

CONFIG = """
model:
  class_path: lightning_rlhf.{module}
  init_args:
    backbone:
      class_path: lightning_rlhf.Backbone
      init_args: {{name_or_path: {base}, dtype: float32, lora: {{r: 4}}}}
    lr: 0.01
data:
  class_path: lightning_rlhf.{data}
  init_args: {{source: {rows}, batch_size: 8, val_fraction: 0.2}}
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  logger:
    class_path: pytorch_lightning.loggers.CSVLogger
    init_args: {{save_dir: {out}, name: run, version: 0}}
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {{save_last: true}}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in number_pairs(120)))
    return file


def config(
    tmp_path: Path, base: str, rows: Path, module: str = "DPOModule", data: str = "PreferenceData"
) -> str:
    file = tmp_path / f"{module}.yaml"
    file.write_text(CONFIG.format(module=module, data=data, base=base, rows=rows, out=tmp_path))
    return str(file)


def test_fit_validate_predict_and_chat(
    tiny_base: str, tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, tiny_base, rows)
    main(["fit", "--config", file])
    run = tmp_path / "run" / "version_0"
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert (run / "policy" / "adapter_config.json").is_file()
    assert "backbone" in (run / "config.yaml").read_text()

    main(["validate", "--config", file, "--ckpt_path", checkpoint])
    assert "val/rewards/margins" in capsys.readouterr().out

    main(
        ["predict", "--config", file, "--ckpt_path", checkpoint, "--data.val_fraction=0"]
        + ["--trainer.callbacks+=lightning_rlhf.callbacks.WriteRows"]
    )
    found = [json.loads(s) for s in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(found) == 120
    assert sum(r["reward_chosen"] > r["reward_rejected"] for r in found) > 80  # it has learnt

    main(["chat", str(run / "policy"), "--prompt", "w1 w2", "--temperature", "0"])
    said = capsys.readouterr().out
    assert "policy" in said
    assert "reference" in said
    assert set(re.findall(r"w\d+", said)) <= set(NUMBERS)


def test_one_changed_class_path_is_another_method(
    tiny_base: str, tmp_path: Path, rows: Path
) -> None:
    file = config(tmp_path, tiny_base, rows)
    main(["fit", "--config", file, "--model", "lightning_rlhf.RewardModule"])
    assert (tmp_path / "run/version_0/reward/adapter_model.safetensors").is_file()


def test_resume_takes_the_command_line_at_its_word(
    tiny_base: str, tmp_path: Path, rows: Path
) -> None:
    """Lightning lets the checkpoint's arguments win over those typed, and says nothing."""
    file = config(tmp_path, tiny_base, rows)
    main(["fit", "--config", file])
    last = str(tmp_path / "run/version_0/checkpoints/last.ckpt")
    main(
        ["fit", "--config", file, "--ckpt_path", last, "--model.beta=0.7", "--trainer.max_epochs=2"]
        + ["--trainer.logger.version=1", f"--trainer.default_root_dir={tmp_path}"]
    )
    again = torch.load(
        tmp_path / "run/version_1/checkpoints/last.ckpt", weights_only=True, map_location="cpu"
    )
    assert again["hyper_parameters"]["beta"] == 0.7
    assert again["epoch"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data.source=/nowhere/rows.jsonl"], "no data file at /nowhere/rows.jsonl"),
        (["--model.backbone.name_or_path=/nowhere/model"], "no model at /nowhere/model"),
        (["--trainer.precision=bf16-true"], 'use precision="bf16-mixed"'),
        (["--model.beta=-1"], "beta must be above 0, got -1.0"),
        (["--model.backbone.adapters={policy: /nowhere}"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(
    tiny_base: str,
    tmp_path: Path,
    rows: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    file = config(tmp_path, tiny_base, rows)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", file, *arguments])
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors


def test_chat_goes_on_until_an_empty_line(tiny_base: str, tmp_path: Path) -> None:
    backbone = Backbone(tiny_base, dtype="float32").load()
    backbone.add_role("policy")
    folder = backbone.save_role("policy", tmp_path / "policy")
    done = subprocess.run(
        [sys.executable, "-m", "lightning_rlhf", "chat", str(folder), "--max_new_tokens", "3"],
        input="w1\nw2 w3\n\n", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("policy") == 2


def test_help_costs_nothing_and_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    said = capsys.readouterr().out
    for verb in ("fit", "validate", "test", "predict", "chat", "quickstart"):
        assert verb in said


def status_of(args: list[str]) -> object:
    try:
        main(args)
    except SystemExit as stopped:
        return stopped.code
    return None


@pytest.mark.parametrize("verb", [*LIGHTNING, *VERBS])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not status_of([verb, "--help"])
    shown = capsys.readouterr().out
    assert "usage: lightning-rlhf" in shown and verb in shown.splitlines()[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_file_with_one_function(verb: str) -> None:
    module = importlib.import_module(f"lightning_rlhf.cli.{verb.replace('-', '_')}")
    assert VERBS[verb].main is module.main
    assert list(inspect.signature(module.main).parameters) == ["args"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["qickstart"], "there is no verb qickstart: did you mean quickstart?"),
        (["demonstrate"], "there is no verb demonstrate: "),
        (["trace", "id", "folder", "--rows=2"], "trace has no option rows"),
        (["quickstart", "--sede=1"], "quickstart has no option sede: did you mean seed?"),
        (["build-demonstrations", "a", "b", "--puree=true"], "did you mean pure?"),
        (["quickstart", "--scale=much"], "scale: expected float, got much"),
    ],
)
def test_a_mistyped_verb_or_option_is_named(
    args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_traceback_where_one_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_RLHF_TRACEBACK", "1")
    with pytest.raises(ValueError, match="quickstart has no option sede"):
        main(["quickstart", "--sede=1"])
