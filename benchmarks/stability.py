"""Do ten seeds of ten survive? PPO, RLOO, GRPO and Dr. GRPO on a learnt reward in the micro-world.

    python benchmarks/stability.py [--seeds 10] [--write true]

A seed is that of world, model, training and sampling alike. Each has its own SFT model and reward
model, kept under runs/stability; a seed that is there already is not run again. Every figure is
from held-out combinations of task and manner, sampled at temperature 1.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import datasets
import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from versus.harness import between
from worlds import fit

from lightning_rlhf import (
    Backbone,
    DemonstrationData,
    GRPOModule,
    LoRA,
    PPOModule,
    PreferenceData,
    PromptData,
    RewardModule,
    RLOOModule,
    Sampling,
    SFTModule,
    Shaping,
    UpdateSchedule,
)
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.functional.advantages import dr_grpo_advantages
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.quickstart.measure import sample
from lightning_rlhf.quickstart.model import write_base
from lightning_rlhf.quickstart.world import World
from lightning_rlhf.text.jsonl import write_rows

ROOT = Path(__file__).parents[1]
HOME = Path("runs/stability")
ANSWER = 24  # tokens, as in the quickstart
ROLLOUTS = 60
KL_COEF = 0.5  # as DPO's beta in the same world


def ppo(backbone: Backbone) -> OnlineModule:
    return PPOModule(
        backbone, lr=1e-3, sampling=Sampling(ANSWER), shaping=Shaping(kl_coef=KL_COEF),
        updates=UpdateSchedule(epochs=4, minibatches=2),
    )  # fmt: skip


def rloo(backbone: Backbone) -> OnlineModule:
    return RLOOModule(
        backbone, lr=1e-3, sampling=Sampling(ANSWER, num_samples=4),
        shaping=Shaping(kl_coef=KL_COEF), updates=UpdateSchedule(epochs=1, minibatches=2),
    )  # fmt: skip


def grpo(backbone: Backbone) -> OnlineModule:
    # advantages of variance 1: a nat costs more, or differences of noise are worth any KL
    return GRPOModule(
        backbone, lr=1e-3, sampling=Sampling(ANSWER, num_samples=4),
        shaping=Shaping(kl_coef=2 * KL_COEF), updates=UpdateSchedule(epochs=1, minibatches=2),
    )  # fmt: skip


def dr_grpo(backbone: Backbone) -> OnlineModule:
    return GRPOModule(
        backbone, advantage=dr_grpo_advantages, loss_aggregation="length", lr=1e-3,
        sampling=Sampling(ANSWER, num_samples=4), shaping=Shaping(kl_coef=KL_COEF),
        updates=UpdateSchedule(epochs=1, minibatches=2),
    )  # fmt: skip


# prompts to a rollout: 64 answers for PPO, 128 in 32 groups of four for the others
METHODS: dict[str, tuple[Any, int]] = {
    "PPO": (ppo, 64),
    "RLOO": (rloo, 32),
    "GRPO": (grpo, 32),
    "Dr. GRPO": (dr_grpo, 32),
}


def main(seeds: int = 10, first: int = 0, write: bool = False) -> None:
    """Run what is not there yet, print, and write.

    Args:
        seeds: how many.
        first: the first of them; two processes may share the work.
        write: tables and plot into benchmarks/.
    """
    quiet()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    found = [seed_of(seed) for seed in range(first, first + seeds)]
    text = "\n\n".join(table(name, found) for name in METHODS)
    print(text)
    if write:
        draw(found, ROOT / "benchmarks/stability.svg")
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "stability", text))


def start(seed: int) -> dict[str, float]:
    """SFT and reward model, where they are not there yet; what the SFT model does."""
    home = HOME / str(seed)
    world, figures = World(seed), home / "start.json"
    if not figures.exists():
        seed_everything(seed, verbose=False)
        write_base(home / "base", world.vocabulary(), seed)
        write_rows(said := home / "demonstrations.jsonl", world.demonstrations(5000))
        write_rows(preferred := home / "preferences.jsonl", world.preferences(9000))
        base = Backbone(str(home / "base"), lora=None, dtype="float32")
        data = DemonstrationData(str(said), batch_size=32)
        fit(SFTModule(base, lr=3e-3), data, home / "sft", epochs=4)
        base.save_role("policy", home / "sft/model")
        found = sample(base, "policy", world.prompts(held_out=True)).metrics
        backbone = Backbone(str(home / "sft/model"), lora=LoRA(r=16), dtype="float32")
        fit(RewardModule(backbone, lr=1.5e-3), PreferenceData(str(preferred), batch_size=24), home)
        backbone.save_role("reward", home / "reward")
        figures.write_text(json.dumps(found))
    told: dict[str, float] = json.loads(figures.read_text())
    return told


def seed_of(seed: int) -> dict[str, Any]:
    """Each method, from the same start."""
    found: dict[str, Any] = {"seed": seed, "SFT": start(seed)}
    for name in METHODS:
        file = HOME / str(seed) / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(method_of(name, seed)))
        found[name] = json.loads(file.read_text())
    print(json.dumps(found), flush=True)
    return found


def method_of(name: str, seed: int) -> dict[str, Any]:
    """One run, and what its policy does on held-out prompts."""
    home, world = HOME / str(seed), World(seed)
    make, batch_size = METHODS[name]
    seed_everything(seed, verbose=False)
    backbone = Backbone(
        str(home / "sft/model"), lora=LoRA(r=16), dtype="float32",
        adapters={"reward": str(home / "reward")},
    )  # fmt: skip
    module = make(backbone)
    rows = [{"prompt": prompt} for prompt in world.prompts(held_out=False)]
    data = PromptData(rows, val_fraction=0, batch_size=batch_size, seed=seed)
    folder, start = home / name, time.process_time()
    Trainer(
        max_steps=ROLLOUTS * module.updates_per_rollout, max_epochs=-1, accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""), log_every_n_steps=1, gradient_clip_val=1.0,
        enable_model_summary=False, enable_checkpointing=False, enable_progress_bar=False,
    ).fit(module, data)  # fmt: skip
    seconds = time.process_time() - start
    with (folder / "metrics.csv").open() as file:
        seen = [row for row in csv.DictReader(file) if row.get("objective/kl")]
    curves = {
        key: [float(row[f"objective/{key}"]) for row in seen] for key in ("kl", "kl_k3", "scores")
    }
    last = curves["kl"][-len(seen) // 4 :]
    return {
        **sample(backbone, "policy", world.prompts(held_out=True)).metrics,
        "kl_last_quarter": mean(last),
        "reward": mean(curves["scores"][-len(seen) // 4 :]),
        "seconds": seconds,
        "curves": curves,
    }


def table(name: str, found: list[dict[str, Any]]) -> str:
    """Markdown: a row a seed, the median at the end, and how many survived."""
    lines = [
        f"| {name}, seed | fully good, SFT → {name} | gain | oracle score | EOS share | "
        "KL of samples | KL, last quarter | learnt reward | CPU seconds |",
        "|---" * 9 + "|",
    ]
    for one in found:
        was, now = one["SFT"], one[name]
        lines.append(
            f"| {one['seed']} | {was['fully_good']:.1%} → {now['fully_good']:.1%} | "
            f"{100 * gain(one, name):+.1f} | {was['oracle_score']:.1%} → "
            f"{now['oracle_score']:.1%} | {now['eos_share']:.1%} | {now['kl']:.2f} | "
            f"{now['kl_last_quarter']:.2f} | {now['reward']:.2f} | {now['seconds']:.0f} |"
        )
    good = sum(survived(one, name) for one in found)
    lines += [
        "",
        f"{name}: {good} of {len(found)} seeds survive; median gain "
        f"{100 * median(gain(one, name) for one in found):+.1f} points of fully good answers.",
    ]
    return "\n".join(lines)


def gain(one: dict[str, Any], name: str) -> float:
    """In fully good answers over SFT."""
    return one[name]["fully_good"] - one["SFT"]["fully_good"]


def survived(one: dict[str, Any], name: str) -> bool:
    """Above SFT, answers end, and the KL of the last quarter is not negative."""
    now = one[name]
    return gain(one, name) > 0 and now["eos_share"] >= 0.95 and now["kl_last_quarter"] >= 0


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Learnt reward against KL, a line a seed, a panel a method."""
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(METHODS), sharey=True), METHODS, strict=True):
        for one in found:
            curves = one[name]["curves"]
            kl, scores = (smooth(curves[key]) for key in ("kl", "scores"))
            axes.plot(kl, scores, color="#2563eb", alpha=0.45, linewidth=1.2)
            axes.plot(kl[-1:], scores[-1:], "o", color="#2563eb", markersize=4)
        axes.set_title(f"{name}: {len(found)} seeds", loc="left", size=10)
        axes.set_xlabel("KL to the reference, nats per answer")
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("learnt reward, mean of 8 rollouts")
    figure.savefig(path, metadata={"Date": None})


def smooth(values: list[float], window: int = 8) -> list[float]:
    """Running means."""
    return [mean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


if __name__ == "__main__":
    auto_cli(main)
