"""A run killed at random moments and resumed each time ends in what the unbroken run ends in."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from kill_harness import Kill, Killer, run_killed
from lightning_rlhf import (
    Backbone,
    Critic,
    LoRA,
    PPOModule,
    PreferenceData,
    PromptData,
    RewardModule,
    RLOOModule,
    Sampling,
    SelfCritiqueModule,
    Shaping,
    UpdateSchedule,
)
from lightning_rlhf.callbacks import WriteRows
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.generators import role as responder
from lightning_rlhf.modules.online import OnlineModule
from runs import Runs
from support import RULES, number_pairs

PREDICT_KILLS = [
    Kill("sample", 2, "before"),
    Kill("sample", 3, "after"),
    Kill("sample", 1, "before"),
    Kill("sample", 2, "after"),
    Kill("sample", 4, "before"),
]


def fit_kills(seed: int) -> list[Kill]:
    """Draw ten moments of a fit, some in each phase."""
    draw = random.Random(seed)
    phases = ["_sample"] * 3 + ["_score"] * 3 + ["update_loss"] * 4
    draw.shuffle(phases)
    last = {"_sample": 2, "_score": 2, "update_loss": 7}
    kills = []
    for phase in phases:
        call = draw.randint(1, last[phase])
        when: Literal["before", "after"] = "after" if draw.random() < 0.5 else "before"
        kills.append(Kill(phase, call, when))
    return kills


def score_low_numbers(
    prompts: list[str], completions: list[str], rows: list[dict[str, Any]]
) -> list[float]:
    """Share of words below 25, and a little for an answer that begins as its prompt does."""
    scores = []
    for prompt, completion in zip(prompts, completions, strict=True):
        numbers = [int(word[1:]) for word in completion.split() if word[1:].isdigit()]
        copied = completion.split()[:1] == prompt.split()[:1]
        scores.append(sum(n < 25 for n in numbers) / max(1, len(numbers)) + 0.5 * copied)
    return scores


def make(method: str, base: str, reward: str) -> OnlineModule:
    """Make a module that has everything a checkpoint must carry."""
    sampling = Sampling(max_new_tokens=6, num_samples=2)
    shaping = Shaping(kl_target=0.5, kl_horizon=50, center=True, normalize=True, clip=3.0)
    backbone = Backbone(base, lora=LoRA(r=4), dtype="float32", adapters={"reward": reward})
    if method == "rloo":
        backbone.adapters.clear()
        updates = UpdateSchedule(epochs=2, minibatches=2, target_kl=0.1)
        return RLOOModule(
            backbone, score_low_numbers, sampling, shaping=shaping, updates=updates, lr=1e-2
        )
    return PPOModule(
        backbone, sampling=sampling, shaping=shaping, updates=UpdateSchedule(2, 2),
        critic=Critic(warmup_updates=3, lr=5e-3), lr=1e-2,
    )  # fmt: skip


def fit(folder: Path, killer: Killer, method: str, base: str, reward: str) -> None:
    """Fit from the newest checkpoint to the end."""
    quiet()
    torch.set_num_threads(1)
    saved = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    seed_everything(len(saved), verbose=False)  # what came before a resume must not matter
    module = make(method, base, reward)
    for phase in ("_sample", "_score", "update_loss"):
        setattr(module, phase, killer.wrap(phase, getattr(module, phase)))
    keep = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer = Trainer(
        max_steps=48, max_epochs=-1, accelerator="cpu", logger=False, gradient_clip_val=1.0,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[keep],
    )  # fmt: skip
    data = PromptData(number_pairs(20), val_fraction=0.0, batch_size=4)
    trainer.fit(module, data, ckpt_path=str(saved[-1]) if saved else None)
    weights = {
        f"{role}.{i}": p.detach().clone()
        for role in module.trained
        for i, p in enumerate(module.backbone.role_parameters(role))
    }
    state = module._shaper.state_dict()
    torch.save({"weights": weights, **state}, folder / "end.pt")


def predict(folder: Path, killer: Killer, base: str) -> None:
    """Write the chains of eight prompts, in two batches; count each answer in a file."""
    quiet()
    module = SelfCritiqueModule(
        Backbone(base, lora=None, dtype="float32"),
        SelfCritique(RULES, rounds=2, transcripts=(), seed=5),
        sampling=Sampling(max_new_tokens=6),
        template="raw",
        journal=str(folder / "journal.jsonl"),
    )
    sample = killer.wrap("sample", responder.HFSampler.sample)

    def counted(*args: Any) -> Any:
        answers = sample(*args)
        with (folder / "asked").open("a") as file:
            each = zip(args[3], args[5], strict=True)
            file.writelines(json.dumps([*prompt, seed]) + "\n" for prompt, seed in each)
        return answers

    responder.HFSampler.sample = counted  # type: ignore[method-assign]
    rows = [{"prompt": row["prompt"]} for row in number_pairs(8)]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=folder,
        callbacks=[WriteRows(str(folder / "rows.jsonl"))],
    )  # fmt: skip
    trainer.predict(module, PromptData(rows, val_fraction=0, batch_size=4))


@pytest.fixture
def reward(runs: Runs) -> str:
    module = RewardModule(runs.backbone(), lr=5e-3)
    runs.trainer(max_steps=2).fit(module, PreferenceData(number_pairs(16), batch_size=4))
    return str(module.backbone.save_role("reward", runs.folder / "reward"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_ten_kills_change_no_bit(runs: Runs, tiny_base: str, reward: str, method: str) -> None:
    kills = fit_kills(seed=0)
    folders = run_killed(fit, runs.folder, kills, method=method, base=tiny_base, reward=reward)
    assert len(list(folders[1].glob("*.ckpt"))) >= 10  # it went on between kills

    whole, killed = (torch.load(folder / "end.pt") for folder in folders)
    assert all(whole[part] == killed[part] for part in ("kl", "moments", "center"))
    assert whole["weights"].keys() == killed["weights"].keys()
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, killed["weights"][name]), name
    assert any(w.abs().sum() > 0 for w in whole["weights"].values())


@pytest.mark.slow
def test_five_kills_of_a_predict_lose_nothing(tiny_base: str, tmp_path: Path) -> None:
    whole, killed = run_killed(predict, tmp_path, PREDICT_KILLS, base=tiny_base)
    assert (whole / "rows.jsonl").read_text() == (killed / "rows.jsonl").read_text()
    answers = [json.loads(line) for line in (killed / "journal.jsonl").read_text().splitlines()]
    assert len({answer["key"] for answer in answers}) == len(answers) == 8 * 5
    asked = (killed / "asked").read_text().splitlines()  # of calls that came back
    assert sorted(asked) == sorted((whole / "asked").read_text().splitlines())
    assert len(set(asked)) == len(asked)
