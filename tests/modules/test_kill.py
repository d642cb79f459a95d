"""Killed at ten random moments and resumed each time, a run ends in the unbroken run's weights."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_rlhf import PreferenceData, RewardModule
from runs import Runs
from support import number_pairs

TESTS = Path(__file__).parents[1]


def moments(seed: int) -> list[tuple[str, int, bool]]:
    """Ten, some in each phase: which phase, its how-manieth call of a process, after or before."""
    draw = random.Random(seed)
    phases = ["_sample"] * 3 + ["_score"] * 3 + ["update_loss"] * 4
    draw.shuffle(phases)
    last = {"_sample": 2, "_score": 2, "update_loss": 7}
    return [(phase, draw.randint(1, last[phase]), draw.random() < 0.5) for phase in phases]


@pytest.fixture
def reward(runs: Runs) -> str:
    module = RewardModule(runs.backbone(), lr=5e-3)
    runs.trainer(max_steps=2).fit(module, PreferenceData(number_pairs(16), batch_size=4))
    return str(module.backbone.save_role("reward", runs.folder / "reward"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_ten_kills_change_no_bit(runs: Runs, tiny_base: str, reward: str, method: str) -> None:
    kills = moments(seed=0)
    file = runs.folder / "job.json"
    job = {"base": tiny_base, "reward": reward, "folder": str(runs.folder), "method": method}
    file.write_text(json.dumps({**job, "kills": kills}))
    done = subprocess.run(
        [sys.executable, str(TESTS / "killed.py"), str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = json.loads((runs.folder / "ends.json").read_text())
    assert ends == [0, *[-signal.SIGKILL] * len(kills), 0], done.stderr
    assert len(list((runs.folder / "killed").glob("*.ckpt"))) >= 10  # it went on between kills

    whole, killed = (torch.load(runs.folder / name / "end.pt") for name in ("whole", "killed"))
    assert whole["kl"] == killed["kl"] and whole["moments"] == killed["moments"]
    assert whole["weights"].keys() == killed["weights"].keys()
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, killed["weights"][name]), name
    assert any(w.abs().sum() > 0 for w in whole["weights"].values())
