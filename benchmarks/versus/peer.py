"""TRL's side of a comparison: its own trainer's loss on its own collator's batch.

Sides: "shipped"; "compact", which scores completion tokens only, as TRL does on a GPU but not on a
CPU; for SFT also "packed" and "packed compact", which flatten the rows as its packing does.
"""

from __future__ import annotations

import tempfile
from itertools import combinations
from typing import Any

import measure
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.trainer import utils
from trl.trainer.dpo_trainer import DataCollatorForPreference as PairCollator
from trl.trainer.reward_trainer import DataCollatorForPreference as RewardCollator
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

Rows = list[dict[str, Any]]
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


def dpo(work: dict[str, Any], args: dict[str, Any]) -> tuple[Trainer, dict[str, Any]]:
    rows = [
        {"prompt_ids": r["prompt"], "chosen_ids": r["completions"][0],
         "rejected_ids": r["completions"][1]}
        for r in work["rows"]
    ]  # fmt: skip
    trainer = DPOTrainer(
        model=_model(work, AutoModelForCausalLM),
        args=DPOConfig(beta=0.1, **args),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
        train_dataset=Dataset.from_list([{"prompt": "w1", "chosen": "w2", "rejected": "w3"}]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )
    return trainer, PairCollator(pad_token_id=0)(rows)


def reward(work: dict[str, Any], args: dict[str, Any]) -> tuple[Trainer, dict[str, Any]]:
    """Take every ordered pair of a ranking; completions stand from best to worst."""
    rows = [
        {"chosen_ids": r["prompt"] + better, "rejected_ids": r["prompt"] + worse}
        for r in work["rows"]
        for better, worse in combinations(r["completions"], 2)
    ]
    trainer = RewardTrainer(
        model=_model(work, AutoModelForSequenceClassification, num_labels=1),
        args=RewardConfig(**args),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
        train_dataset=Dataset.from_list([{"chosen": "w1 w2", "rejected": "w1 w3"}]),
        peft_config=LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], **LORA),
    )
    return trainer, RewardCollator(pad_token_id=0)(rows)


def sft(work: dict[str, Any], args: dict[str, Any]) -> tuple[Trainer, dict[str, Any]]:
    packed = "packed" in work["side"]
    rows = [
        {"input_ids": r["prompt"] + c, "labels": [-100] * len(r["prompt"]) + c}
        for r in work["rows"]
        for c in r["completions"]
    ]
    trainer = SFTTrainer(
        model=_model(work, AutoModelForCausalLM),
        args=SFTConfig(padding_free=packed, max_length=None, **args),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
        train_dataset=Dataset.from_list([{"text": "w1 w2"}]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )
    return trainer, DataCollatorForLanguageModeling(pad_token_id=0, padding_free=packed)(rows)


def _model(work: dict[str, Any], kind: Any, **options: Any) -> Any:
    dtype = getattr(torch, work["dtype"])
    return kind.from_pretrained(
        work["model"], dtype=dtype, attn_implementation="sdpa", pad_token_id=0, **options
    )


def main() -> None:
    work = measure.load()
    if "compact" in work["side"]:
        utils._use_triton = lambda device: True
    args = {
        "output_dir": tempfile.mkdtemp(),
        "bf16": False,  # autocast is entered here, as on our side
        "use_cpu": work["device"] == "cpu",
        "report_to": [],
        "gradient_checkpointing": work["checkpointing"],
    }
    trainer, batch = {"dpo": dpo, "reward": reward, "sft": sft}[work["method"]](work, args)
    model = trainer.model.to(work["device"]).train()
    if work["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = {
        name: value.to(work["device"]) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
    named = [
        (name.replace("modules_to_save.default.", ""), p)
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    optimizer = measure.optimizer(measure.fill(named))

    def step() -> float:
        with measure.autocast(work):
            loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    measure.serve(step, work["device"])


if __name__ == "__main__":
    main()
