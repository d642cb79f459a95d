"""PPO on SmolLM2-135M in 4 bits on a CPU, its reward a role trained here: does all of it run?

    python benchmarks/smollm2_ppo.py preferences.jsonl [--rollouts 5] [--rows 64] [--new 24]

Prints a Markdown table of the first and the last rollout, and seconds and memory of the whole.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from jsonargparse import auto_cli
from pytorch_lightning import Callback, Trainer, seed_everything

from lightning_rlhf import Backbone, LoRA, PreferenceData, PromptData, RewardModule, UpdateSchedule
from lightning_rlhf.models.loading import DType
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.ppo import PPOModule

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHOWN = {
    "objective/scores": "score",
    "objective/kl": "KL, nats a completion (k1)",
    "objective/kl_k3": "KL, nats a completion (k3)",
    "completions/eos_share": "EOS share",
    "completions/mean_length": "tokens a completion",
    "policy/first_ratio_error": "first ratio's largest distance from 1",
    "policy/sampler_gap": "sampler's gap, nats a token",
    "value/explained_variance": "explained variance",
    "time/rollout": "seconds to sample",
}


class Seen(Callback):
    """The figures of every rollout."""

    def __init__(self) -> None:
        self.rollouts: list[dict[str, float]] = []
        self.steps = 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        self.steps = trainer.global_step
        while len(self.rollouts) < module.rollouts_made:
            self.rollouts.append({})
        told = {k: float(v) for k, v in trainer.callback_metrics.items() if k in SHOWN}
        self.rollouts[-1] = {**told, **self.rollouts[-1]}  # as it was told first


def main(
    data: str,
    rollouts: int = 5,
    epochs: int = 4,
    prompts: int = 8,
    rows: int = 64,
    length: int = 128,
    new: int = 24,
    dtype: DType = "float32",
    lr: float = 1e-4,
) -> None:
    """Run and print.

    Args:
        data: a preference file.
        rollouts: each of so many optimizer steps as there are epochs.
        epochs: passes over a rollout.
        prompts: to a rollout.
        rows: pairs the reward is trained on, once.
        length: tokens to a pair's row, and to a prompt.
        new: tokens to a completion at most.
        dtype: in which the 4-bit base computes.
        lr: of the reward, and of policy and critic.
    """
    seed_everything(0, verbose=False)
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_model_summary": False, "gradient_clip_val": 1.0, "log_every_n_steps": 1,
        "limit_val_batches": 0, "num_sanity_val_steps": 0,
    }  # fmt: skip
    backbone = Backbone(MODEL, quantization="nf4", lora=LoRA(r=16), dtype=dtype)
    start = time.perf_counter()
    judge = Trainer(max_epochs=1, **quiet)
    pairs = PreferenceData(data, max_rows=rows, max_length=length, batch_size=4)
    judge.fit(RewardModule(backbone, lr=lr), pairs)
    judged = time.perf_counter()
    seen = Seen()
    module = PPOModule(
        backbone,
        reward="reward",
        sampling=Sampling(max_new_tokens=new),
        updates=UpdateSchedule(epochs=epochs),
        lr=lr,
    )
    trainer = Trainer(max_steps=rollouts * epochs, callbacks=[seen], **quiet)
    trainer.fit(module, PromptData(data, max_length=length, batch_size=prompts))
    done = time.perf_counter()
    first, last = seen.rollouts[0], seen.rollouts[-1]
    print("\n| what | first rollout | last rollout | least | most |\n|---|---|---|---|---|")
    for name, words in SHOWN.items():
        told = [r[name] for r in seen.rollouts]
        row = (first[name], last[name], min(told), max(told))
        print(f"| {words} | " + " | ".join(f"{value:.3g}" for value in row) + " |")
    print("\n| what | figure |\n|---|---|")
    figures = {
        "optimizer steps, rollouts": f"{seen.steps}, {len(seen.rollouts)}",
        "reward: accuracy of its last batches": f"{_accuracy(judge):.2f}",
        "reward, seconds wall": f"{judged - start:.0f}",
        "PPO, seconds wall": f"{done - judged:.0f}",
        "all, CPU seconds": f"{time.process_time():.0f}",
        "peak memory, GiB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}",
        "dtype, threads": f"{dtype}, {torch.get_num_threads()}",
    }
    for name, figure in figures.items():
        print(f"| {name} | {figure} |")


def _accuracy(trainer: Trainer) -> float:
    found = [float(v) for k, v in trainer.callback_metrics.items() if k.endswith("accuracies")]
    return found[0] if found else float("nan")


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
