"""`lightning-rlhf plan`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from lightning_rlhf.cli.main import main
from lightning_rlhf.cli.plan import split_arguments

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=1000,
    ).save_pretrained(tmp_path)  # fmt: skip
    return [
        f"--config={ROOT / 'configs/dpo.yaml'}",
        f"--config={ROOT / 'configs/cards/8gb.yaml'}",
        f"--model.backbone.name_or_path={tmp_path}",
        "--data.source=there/is/none.jsonl",
    ]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


def planned(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments])
    return end.value.code, capsys.readouterr().out


def test_a_gpu_config_is_planned_without_gpu_weights_or_data(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = planned([*arguments, "--gpu", "0.75"], capsys)
    assert code == 0
    for part in (
        "forward as reference",
        "backward",
        "weights",
        "It fits 0.75 GiB",
        "The most that",
    ):
        assert part in said
    code, said = planned([*arguments, "--gpu", "0.6"], capsys)
    assert code == 1
    assert "does not fit 0.6 GiB" in said
    assert "What would make room" in said
    code, said = planned(arguments, capsys)
    assert code == 0 and "--gpu 12 for a verdict" in said


def test_accumulation_and_the_completions_of_a_ranking_are_planned(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """For dtype auto, the dtype that a GPU would use is shown."""
    arguments = [*arguments, "--model.backbone.quantization=null", "--model.backbone.dtype=auto"]
    reward = [*arguments, f"--config={ROOT / 'configs/reward.yaml'}", *arguments[1:]]
    _, said = planned([*reward, "--model.backbone.dtype=auto", "--completions=8"], capsys)
    assert re.search(r"\d × \(\d+ \+ 8 × \d+\) tokens", said)
    with pytest.raises(SystemExit):
        main(["plan", *arguments, "--completions=8"])
    assert "only a RewardModule learns from rankings, not DPOModule" in capsys.readouterr().err
    _, plain = planned([*arguments, "--trainer.accumulate_grad_batches=1"], capsys)
    assert "(bfloat16)" in plain
    waits = "--trainer.accumulate_grad_batches=4"
    _, waiting = planned([*arguments, "--model.backbone.lora.r=256", waits], capsys)
    forward = next(line for line in waiting.splitlines() if "gradients" in line)
    assert forward.count("0.02") == 4, forward


def test_what_plan_takes_is_taken_out_of_the_arguments_of_fit() -> None:
    asked, rest = split_arguments(["--config", "a", "--gpu", "12", "--data.seed=1"])
    assert asked == (12.0, 2)
    assert rest == ["--config", "a", "--data.seed=1"]
