"""The quickstart in small: it runs through the public modules and leaves what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_rlhf.cli import main


@pytest.mark.slow
def test_a_quarter_of_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than the real one, so the effect is smaller; still it must be there.

    benchmarks/quickstart_seeds.py keeps the promise at full length.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    mine = tmp_path / "runs" / "quickstart" / "mine.txt"
    mine.write_text("not the quickstart's")
    main(["quickstart", "--scale", "0.4"])
    home = tmp_path / "runs" / "quickstart"
    results = json.loads((home / "results.json").read_text())
    stages = {stage["name"]: stage["metrics"] for stage in results["stages"]}
    assert stages["DPO"]["fully_good"] > stages["SFT"]["fully_good"] + 0.1
    assert stages["PPO"]["fully_good"] > stages["SFT"]["fully_good"] + 0.1
    assert stages["PPO"]["learnt_reward"] > stages["SFT"]["learnt_reward"] + 0.2
    assert stages["DPO"]["eos_share"] > 0.9
    assert stages["PPO"]["eos_share"] > 0.9
    assert 0 < stages["PPO"]["kl"] < 20
    assert stages["Reward"]["reward_accuracy"] > 0.65
    assert 0 < stages["DPO"]["kl"] < 20
    assert stages["SFT"]["kl"] == 0
    assert (home / "report.html").is_file()
    assert (home / "report.png").is_file()
    assert (home / "frontier.png").is_file()
    assert (home / "data" / "preferences.jsonl").is_file()
    assert mine.is_file()  # nothing of the user's is touched

    # what the README says next: the same method from the command line, on the files left behind
    config = Path(__file__).parents[2] / "configs" / "dpo.yaml"
    main(
        [
            "fit",
            "--config",
            str(config),
            "--trainer.max_steps=2",
            "--trainer.enable_progress_bar=false",
        ]
    )
    assert (tmp_path / "runs/dpo/version_0/policy/adapter_model.safetensors").is_file()
