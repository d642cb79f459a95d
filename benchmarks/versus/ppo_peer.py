"""TRL's side of the PPO comparison: its own ``train``, of one rollout with all its updates.

Sides: "TRL", as in its example: LoRA on the policy, whose base is the reference; a value model
whose weights are all trained; a reward model. "TRL, value LoRA": the value model has
an adapter too. TRL does not offer that but accepts it.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


def build(work: dict[str, Any]) -> PPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    value = _model(work, AutoModelForSequenceClassification, num_labels=1)
    reward = _model(work, AutoModelForSequenceClassification, num_labels=1)
    for model in (value, reward):
        measure.fill([("score.weight", model.score.weight)])
    reward.requires_grad_(False).eval()
    if "value LoRA" in work["side"]:
        inject_adapter_in_model(LoraConfig(task_type="SEQ_CLS", **LORA), value)
        value.score.requires_grad_(True)
    rows = len(work["prompts"])
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=work["epochs"],
        total_episodes=rows,  # each call of train: one rollout
        response_length=work["new"],
        stop_token="eos",
        missing_eos_penalty=1.0,
        temperature=1.0,
        kl_coef=0.05,
        num_sample_generations=0,
        learning_rate=1e-8,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_epsilon=1e-5,
        weight_decay=0.0,
        bf16=False,
        gradient_checkpointing=work["checkpointing"],
        use_cpu=work["device"] == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    policy = _model(work, AutoModelForCausalLM)
    if work["checkpointing"]:
        for model in (policy, value):
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in work["prompts"]]),
        eval_dataset=Dataset.from_list([{"input_ids": work["prompts"][0]}]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )


def _model(work: dict[str, Any], kind: Any, **options: Any) -> Any:
    dtype = getattr(torch, work["dtype"])
    return kind.from_pretrained(
        work["model"], dtype=dtype, attn_implementation="sdpa", pad_token_id=0, **options
    )


def main() -> None:
    work = measure.load()
    imported = measure.mib("VmRSS")
    trainer = build(work)
    end = trainer.processing_class.eos_token_id
    record = Path(work["model"], "rollout.json")
    seen: dict[str, Any] = {}
    generate = ppo_trainer.batch_generation

    def watched(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        sequences, logits = generate(*args, **kwargs)
        seen["rollout"], seen["sequences"] = time.perf_counter() - start, sequences
        return sequences, logits

    ppo_trainer.batch_generation = watched
    trainer.log = seen.update

    def step() -> dict[str, float]:
        """Make one rollout with all its updates."""
        trainer.train()
        prompt = len(work["prompts"][0])
        rows = [
            {"prompt": ids[:prompt], "completion": _until(ids[prompt:], end)}
            for ids in seen["sequences"].tolist()
        ]
        ended = [row["completion"][-1] == end for row in rows]
        if not record.exists():
            record.write_text(
                json.dumps([{**r, "finished": f} for r, f in zip(rows, ended, strict=True)])
            )
        missed = 1 - sum(ended) / len(rows)
        return {
            "score": seen["objective/scores"] + missed,  # without its penalty
            "kl": seen["objective/kl"],
            "value_loss": seen["loss/value_avg"],
            "rollout": seen["rollout"],
            "length": sum(len(row["completion"]) for row in rows) / len(rows),
            "finished": 1 - missed,
            "imported": imported,
        }

    measure.serve(step, work["device"])


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


if __name__ == "__main__":
    main()
