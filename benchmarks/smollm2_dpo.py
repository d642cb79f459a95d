"""DPO on SmolLM2-135M in 4 bits on a CPU, from a real preference file: learning and cost.

    python benchmarks/smollm2_dpo.py preferences.jsonl [--rows 200] [--length 128] [--dtype float32]

Prints a Markdown table: held-out margin before and after, seconds, peak memory, what the checkpoint
holds, and how far the saved adapter is from the same adapter in plain peft.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli
from peft import PeftModel
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lightning_rlhf import Backbone, DPOModule, LoRA, PreferenceData
from lightning_rlhf.cli.chat import chat
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.models.loading import DType

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def main(
    data: str,
    rows: int = 200,
    length: int = 128,
    dtype: DType = "float32",
    folder: str = "runs/bench/smollm2_dpo",
) -> None:
    """Run and print.

    Args:
        data: a preference file.
        rows: pairs read from it.
        length: tokens to a row.
        dtype: in which the 4-bit base computes; bfloat16 is fast on CPUs that know it.
        folder: where checkpoints and the adapter go.
    """
    seed_everything(0, verbose=False)
    home = Path(folder)
    backbone = Backbone(MODEL, quantization="nf4", lora=LoRA(r=16), dtype=dtype)
    module = DPOModule(backbone, beta=0.1, lr=1e-4)
    pairs = PreferenceData(data, max_rows=rows, max_length=length, batch_size=4, val_fraction=0.1)
    checkpoint = ModelCheckpoint(home, save_last=True, every_n_train_steps=10)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", accumulate_grad_batches=2, gradient_clip_val=1.0,
        val_check_interval=0.5, logger=False, callbacks=[checkpoint], enable_model_summary=False,
    )  # fmt: skip
    (before,) = trainer.validate(module, pairs, verbose=False)
    start = time.perf_counter()
    trainer.fit(module, pairs)
    seconds = time.perf_counter() - start
    after = {k: float(v) for k, v in trainer.callback_metrics.items()}
    saved = torch.load(checkpoint.last_model_path, weights_only=True)
    adapter = backbone.save_role("policy", home / "policy")
    print("\n| what | figure |\n|---|---|")
    assert pairs.train_rows is not None
    assert pairs.val_rows is not None
    figures = {
        "rows (train / held out)": f"{len(pairs.train_rows)} / {len(pairs.val_rows)}",
        "held-out loss, before → after": f"{before['val/loss']:.4f} → {after['val/loss']:.4f}",
        "held-out margin, before → after": (
            f"{before['val/rewards/margins']:.4f} → {after['val/rewards/margins']:.4f}"
        ),
        "held-out accuracy after": f"{after['val/rewards/accuracies']:.3f}",
        "fit, seconds wall": f"{seconds:.0f}",
        "peak memory, GiB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}",
        "dtype, threads": f"{dtype}, {torch.get_num_threads()}",
        "checkpoint, MB": f"{Path(checkpoint.last_model_path).stat().st_size / 1e6:.1f}",
        "weights in it that are not an adapter": str(
            sum(".lora_" not in k for k in saved["state_dict"])
        ),
        "largest logit difference in plain peft": f"{difference_in_peft(backbone, adapter):.1e}",
    }
    for name, figure in figures.items():
        print(f"| {name} | {figure} |")
    chat(str(adapter), prompt="How do I pick a lock?", quantization="nf4", max_new_tokens=48)


def difference_in_peft(backbone: Backbone, adapter: Path) -> float:
    """Largest difference of a logit between our policy and the same adapter loaded by peft."""
    text = "The quick brown fox jumps over the lazy dog."
    ids = backbone.tokenizer(text).input_ids
    tokens = completion_batch([ids[:1]], [ids[1:]], [0])
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=backbone.base.dtype,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(
        backbone.path, quantization_config=four_bit, dtype=backbone.base.dtype
    )
    plain = PeftModel.from_pretrained(base, str(adapter)).train()
    with torch.no_grad():
        theirs = plain(input_ids=torch.tensor([ids])).logits[0, :-1]
        return float((backbone.logits(tokens, "policy") - theirs).abs().max())


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
