"""Work that dies by a real SIGKILL, for ``kill_harness.run_killed``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from kill_harness import Killer
from lightning_rlhf import (
    AIFeedbackModule,
    Backbone,
    PromptData,
    Sampling,
    SelfCritiqueModule,
    SFTModule,
)
from lightning_rlhf.callbacks import WriteRows
from lightning_rlhf.cli.main import main as command_line
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.generators import role as responder
from support import RULES, number_pairs

OUTCOME = ("*.jsonl", "**/rows.jsonl", "**/rollouts.jsonl", "**/*.safetensors")
RECIPE = """
name: killed
folder: {home}/run
seed: 3
defaults:
  model: {{init_args: {{backbone: {{class_path: lightning_rlhf.Backbone, init_args: {{
    name_or_path: {base}, dtype: float32, lora: {{r: 2}}}}}}}}}}
  trainer: {{accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
stages:
  - name: rows
    call: recipe_parts.write_pairs
    outputs: {{pairs: rows.jsonl}}
  - name: sft
    model: {{class_path: lightning_rlhf.SFTModule, init_args: {{lr: 1e-2}}}}
    data:
      class_path: lightning_rlhf.DemonstrationData
      init_args: {{source: "{{rows.pairs}}", batch_size: 4, val_fraction: 0.2}}
    trainer:
      max_epochs: 2
      callbacks:
        - class_path: pytorch_lightning.callbacks.ModelCheckpoint
          init_args: {{every_n_train_steps: 2}}
  - name: grpo
    model:
      class_path: lightning_rlhf.GRPOModule
      init_args:
        lr: 1e-2
        reward: methods.low_numbers
        sampling: {{max_new_tokens: 3, num_samples: 2}}
        backbone: {{init_args: {{adapters: {{policy: "{{sft.policy}}"}}}}}}
    data:
      class_path: lightning_rlhf.PromptData
      init_args: {{source: "{{rows.pairs}}", batch_size: 4, val_fraction: 0}}
    trainer:
      max_epochs: 2
      callbacks:
        - class_path: lightning_rlhf.callbacks.RolloutTable
        - class_path: pytorch_lightning.callbacks.ModelCheckpoint
          init_args: {{every_n_train_steps: 1}}
"""


def self_critique(folder: Path, killer: Killer, base: str) -> None:
    """Write the chains of eight prompts, in two batches."""
    module = SelfCritiqueModule(
        Backbone(base, lora=None, dtype="float32"),
        SelfCritique(RULES, rounds=2, transcripts=(), seed=5),
        sampling=Sampling(max_new_tokens=6),
        template="raw",
        journal=str(folder / "journal.jsonl"),
    )
    predict(folder, killer, module)


def ai_feedback(folder: Path, killer: Killer, base: str) -> None:
    """Let a model judge pairs of its own answers to eight prompts, in two batches."""
    module = AIFeedbackModule(
        Backbone(base, lora=None, dtype="float32"),
        AIFeedback(RULES, transcripts=(), seed=5),
        sampling=Sampling(max_new_tokens=6),
        template="raw",
        journal=str(folder / "journal.jsonl"),
    )
    predict(folder, killer, module)


def predict(folder: Path, killer: Killer, module: Any) -> None:
    """Write rows; count each answer in a file."""
    quiet()
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


def recipe(folder: Path, killer: Killer, base: str) -> None:
    """Run a recipe to its end."""
    torch.set_num_threads(1)
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(home=folder, base=base))
    Trainer.save_checkpoint = killer.wrap("save", Trainer.save_checkpoint)  # type: ignore[method-assign]
    SFTModule.optimizer_step = killer.wrap("step", SFTModule.optimizer_step)  # type: ignore[method-assign]
    command_line(["run", str(file)])


def ends(folder: Path) -> dict[str, bytes]:
    """What work has written, by the name of its file."""
    files = sorted({file for pattern in OUTCOME for file in folder.glob(pattern)})
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name != "journal.jsonl"}
