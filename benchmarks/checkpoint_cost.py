"""What does an exact resume cost: seconds and bytes of a checkpoint, with it and as Lightning does?

    python benchmarks/checkpoint_cost.py [--write true]

The same module, once with the loops of ``training/resume.py`` and once with Lightning's own.
Median of twenty saves in a fit, to the disk of a temporary folder.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import torch
from jsonargparse import auto_cli
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from transformers import LlamaConfig, LlamaForCausalLM
from versus.harness import between

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lightning_rlhf import Backbone, LoRA  # noqa: E402
from lightning_rlhf.cli.main import quiet  # noqa: E402
from lightning_rlhf.quickstart.model import word_tokenizer  # noqa: E402
from methods import METHODS, TITLES  # noqa: E402
from support import NUMBERS, number_pairs  # noqa: E402

HEAD = (
    "| | seconds a checkpoint, Lightning | exact | bytes, Lightning | exact | "
    "ms a batch, Lightning | exact |\n|---|---|---|---|---|---|---|"
)


def main(saves: int = 20, write: bool = False) -> None:
    """Run, print, and write.

    Args:
        saves: in a fit.
        write: the table into benchmarks/README.md.
    """
    quiet()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as home:
        base = write_base(Path(home) / "base")
        for name in ("sft", "dpo", "grpo"):
            stock = fit(base, Path(home) / f"{name}0", name, saves, exact=False)
            exact = fit(base, Path(home) / f"{name}1", name, saves, exact=True)
            pairs = zip(stock, exact, strict=True)
            cells = [f"{form(a)} | {form(b)}" for (a, b), form in zip(pairs, FORMS, strict=True)]
            lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if write:
        readme = ROOT / "benchmarks/README.md"
        table = "\n".join([HEAD, *lines])
        readme.write_text(between(readme.read_text(), "checkpoint_cost", table))


FORMS = ("{:.4f}".format, "{:,.0f}".format, lambda seconds: f"{1000 * seconds:.1f}")


def write_base(folder: Path) -> str:
    """Four layers, 256 wide: adapters of 1.3 MB, whose optimizer takes twice that."""
    tokenizer = word_tokenizer(NUMBERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Timed(Callback):
    """Seconds of each batch, between the starts of two."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())


def fit(base: str, home: Path, name: str, saves: int, exact: bool) -> tuple[float, float, float]:
    """Seconds and bytes of a checkpoint, and seconds of a batch that saves none."""
    seed_everything(0, verbose=False)
    made = METHODS[name]
    module = made.make(Backbone(base, lora=LoRA(r=16), dtype="float32"), lr=1e-3)
    data = made.data(number_pairs(4 * saves), batch_size=4, val_fraction=0.0)
    keep = ModelCheckpoint(home, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    timed = Timed()
    trainer = Trainer(
        max_steps=2 * saves, max_epochs=-1, accelerator="cpu", logger=False,
        callbacks=[keep, timed],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=home,
    )  # fmt: skip
    save, seconds = trainer.save_checkpoint, []

    def saving(*args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        save(*args, **kwargs)
        seconds.append(time.perf_counter() - began)

    trainer.save_checkpoint = saving  # type: ignore[method-assign]
    stock = mock.patch("lightning_rlhf.training.resume.install", return_value=None)
    with nullcontext() if exact else stock:
        trainer.fit(module, data)
    files = [file.stat().st_size for file in home.glob("*.ckpt")]
    gaps = [b - a for a, b in zip(timed.starts[:-1:2], timed.starts[1::2], strict=False)]
    return statistics.median(seconds), statistics.median(files), statistics.median(gaps)


if __name__ == "__main__":
    auto_cli(main)
