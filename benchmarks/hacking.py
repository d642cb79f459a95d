"""Does the doctor say so where a policy hacks its reward, and is it silent where none does?

    python benchmarks/hacking.py [--write true]

PPO on the seeds of stability.py that break at a low price of KL, at that price and at the usual
one. The doctor watches the oracle's score on held-out prompts, which the reward does not see. Wants
what stability.py leaves.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import datasets
import torch
from jsonargparse import auto_cli
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from stability import ANSWER, HOME, KL_COEF, ROLLOUTS, ROOT
from versus.harness import between

from lightning_rlhf import Backbone, LoRA, PPOModule, PromptData, Sampling, Shaping, UpdateSchedule
from lightning_rlhf.callbacks import Doctor
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.models.backbone import POLICY
from lightning_rlhf.quickstart.measure import sample
from lightning_rlhf.quickstart.track_frontier import Frontier
from lightning_rlhf.quickstart.world import World

LOOKS = 20  # of a run at the oracle


def main(seeds: tuple[int, ...] = (2, 3, 6), write: bool = False) -> None:
    """Run, print, and write.

    Args:
        seeds: which.
        write: the table into benchmarks/README.md.
    """
    quiet()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    lines = [
        "| seed | kl_coef | fully good, SFT → PPO | KL | oracle score: best, end | "
        "the doctor, at rollout |",
        "|---" * 6 + "|",
    ]
    for seed in seeds:
        for kl_coef in (KL_COEF / 5, KL_COEF):
            lines.append(line(seed, kl_coef))
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "hacking", text))


def line(seed: int, kl_coef: float) -> str:
    """One run."""
    home, world = HOME / str(seed), World(seed)
    seed_everything(seed, verbose=False)
    backbone = Backbone(
        str(home / "sft/model"), lora=LoRA(r=16), dtype="float32",
        adapters={"reward": str(home / "reward")},
    )  # fmt: skip
    module = PPOModule(
        backbone, lr=1e-3, sampling=Sampling(ANSWER), shaping=Shaping(kl_coef=kl_coef),
        updates=UpdateSchedule(epochs=4, minibatches=2),
    )  # fmt: skip
    rows = [{"prompt": prompt} for prompt in world.prompts(held_out=False)]
    steps = ROLLOUTS * module.updates_per_rollout
    folder = home / f"hacking_{kl_coef}"
    watched = Frontier("PPO", looks=LOOKS)
    Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0,
        logger=CSVLogger(folder, name="", version=""), enable_model_summary=False,
        enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[watched, Doctor(watch="held_out/oracle_score")],
    ).fit(module, PromptData(rows, val_fraction=0, batch_size=64, seed=seed))  # fmt: skip
    start = json.loads((home / "start.json").read_text())
    now = sample(backbone, POLICY, world.prompts(held_out=True)).metrics
    oracle = [point.oracle for point in watched.points]
    return (
        f"| {seed} | {kl_coef:g} | {start['fully_good']:.1%} → {now['fully_good']:.1%} | "
        f"{now['kl']:.2f} | {max(oracle):.1%}, {oracle[-1]:.1%} | {said(folder)} |"
    )


def said(folder: Any) -> str:
    """Every finding of a run."""
    file = folder / "doctor.jsonl"
    rows = [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []
    found = [row for row in rows if row["event"] == "found"]
    return "; ".join(f"{row['illness']}, {row['rollout']}" for row in found) or "nothing"


if __name__ == "__main__":
    auto_cli(main)
