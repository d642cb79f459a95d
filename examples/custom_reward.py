"""A reward of your own: a function of texts. Here answers are to say "please".

    lightning-rlhf quickstart && python examples/custom_reward.py

Takes seconds, on the quickstart's small model or on any other folder or hub id.
"""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import auto_cli
from pytorch_lightning import Trainer, seed_everything

from lightning_rlhf import Backbone, LoRA, PromptData, RLOOModule, Sampling, Shaping


def says_word(prompts: list[str], completions: list[str], rows: list[dict]) -> list[float]:
    """1 for an answer that has its row's word in it, a little less the longer it is."""
    found = zip(completions, rows, strict=True)
    return [float(row["word"] in text.split()) - 0.02 * len(text.split()) for text, row in found]


def main(
    model: str = "runs/quickstart/sft/policy",
    source: str = "runs/quickstart/data/preferences.jsonl",
    word: str = "please",
    rollouts: int = 20,
) -> RLOOModule:
    """Train; every row of the data, any column of it included, reaches the reward."""
    seed_everything(0, verbose=False)
    backbone = Backbone(model, lora=LoRA(r=16), dtype="float32")
    module = RLOOModule(
        backbone,
        says_word,
        Sampling(max_new_tokens=16, num_samples=4),
        shaping=Shaping(kl_coef=0.02),
        lr=5e-3,
    )
    data = PromptData(rows_of(source, word), val_fraction=0.0, batch_size=16)
    Trainer(max_steps=rollouts, max_epochs=-1, accelerator="cpu", logger=False).fit(module, data)
    backbone.save_role("policy", "runs/custom_reward")
    for prompt, completion, score, *_ in module.rollout_table().rows[:8]:
        print(f"{score:+.2f}  {prompt} -> {completion}")
    return module


def rows_of(source: str, word: str) -> list[dict]:
    """The prompts of a .jsonl file, each with the word asked for."""
    lines = Path(source).read_text().splitlines()[:400]
    return [{"prompt": json.loads(line)["prompt"], "word": word} for line in lines]


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
