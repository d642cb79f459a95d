"""configs/rlhf.yaml in small: three methods in a row, the oracle's figures, a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_rlhf.cli.main import main

CONFIG = Path(__file__).parents[2] / "configs" / "rlhf.yaml"
SMALL = """
    stages.world.args.demonstrations=320  stages.world.args.preferences=160
    stages.sft.trainer.max_steps=10  stages.reward.trainer.max_steps=4
    stages.ppo.trainer.max_steps=8  stages.ppo.data.batch_size=8
    stages.sft_judged.args.every=16  stages.ppo_judged.args.every=16
    stages.ppo.model.sampling.max_new_tokens=6  defaults.trainer.enable_progress_bar=false
"""


@pytest.mark.slow
def test_rlhf_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [part for override in SMALL.split() for part in ("--set", override)]
    main(["run", str(CONFIG), *small])
    home = tmp_path / "runs" / "rlhf"
    results = json.loads((home / "results.json").read_text())
    figures = {stage["name"]: stage["metrics"] for stage in results["stages"]}
    assert set(figures) == {"sft", "reward", "ppo"}
    assert figures["sft"]["kl"] == 0 and figures["ppo"]["kl"] != 0
    assert 0 <= figures["reward"]["reward_accuracy"] <= 1
    assert "parameters" in results["facts"]["model"]
    assert results["answers"][0]["by_stage"].keys() == {"sft", "ppo"}
    assert (home / "report.png").is_file()

    # a stage's own config is one of `fit`
    (config,) = home.glob("sft/log/version_0/config.yaml")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--print_config"])
    assert "runs/rlhf/world/base" in capsys.readouterr().out
