"""The quickstart in small: every stage runs, and its outputs exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_rlhf.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_a_twentieth_of_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is too short to learn much: every stage passes on its outputs.

    benchmarks/quickstart_seeds.py measures it at full length.
    """
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "runs" / "quickstart"
    home.mkdir(parents=True)
    (home / "mine.txt").write_text("not the quickstart's")
    main(["quickstart", "--scale", "0.05"])
    results = json.loads((home / "results.json").read_text())
    stages = {stage["name"]: stage["metrics"] for stage in results["stages"]}
    assert stages["sft"]["kl"] == 0
    assert stages["reward"]["reward_accuracy"] > 0.5
    for name in ("dpo", "ppo", "cai", "cai_dpo"):
        assert 0 < stages[name]["kl"] < 20, name
        assert {"fully_good", "harmful_compliance", "learnt_reward"} <= stages[name].keys()
    for file in ("report.html", "report.png", "frontier/frontier.png", "mine.txt"):
        assert (home / file).is_file(), file

    again = (home / "recipe.json").read_text()
    main(["quickstart", "--scale", "0.05"])  # done already: only the report again
    assert (home / "recipe.json").read_text() == again

    # the next command of the README: the same method from the command line, on these outputs
    quiet = ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false"]
    main(["fit", "--config", str(CONFIGS / "ppo.yaml"), *quiet])
    assert (tmp_path / "runs/ppo/version_0/policy/adapter_model.safetensors").is_file()
