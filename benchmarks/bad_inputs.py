"""Thousands of bad inputs of every kind: how many are used, dropped or refused.

    PYTHONPATH=tests python benchmarks/bad_inputs.py [--rows 5000] [--others 5000]

``tests/input_kinds.py`` draws them. An error is foreign if it is not a sentence of ours: the script
prints it with its kind and seed, and fails.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import datasets
import torch
from jsonargparse import auto_cli
from transformers import LlamaConfig, LlamaForCausalLM
from versus.harness import between

from data.conftest import byte_level
from input_kinds import ROWS, SURFACE, Kind, Place, outcome, prepared
from lightning_rlhf.quickstart.model import word_tokenizer

ROOT = Path(__file__).parents[1]
WEIGHT = {"configs": 0.6, "damaged_files": 0.5}  # of a kind's number of inputs; 1 for the others
WORDS = ("used", "dropped", "refused", "slow", "foreign")


def bad_inputs(
    rows: int = 5000,
    others: int = 5000,
    kind: str | None = None,
    first: int = 0,
    write: bool = False,
) -> str:
    """Try inputs and print the table.

    Args:
        rows: number of data rows and files.
        others: number of other inputs.
        kind: only this one.
        first: seed to begin with.
        write: the table into benchmarks/README.md.
    """
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    lines = ["| kind | inputs | used | dropped, counted | refused in a sentence | slow | foreign |"]
    lines.append("|---|---|---|---|---|---|---|")
    start, total = time.time(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        datasets.config.HF_DATASETS_CACHE = Path(folder, "cache")
        place = prepared(Path(folder), base(Path(folder)), byte_level())
        for kinds, number in ((ROWS, rows), (SURFACE, others)):
            shares = {k: WEIGHT.get(k.__name__, 1.0) for k in kinds}
            for one in kinds:
                if kind in (None, one.__name__):
                    n = round(number * shares[one] / sum(shares.values()))
                    counts = count(one, range(first, first + n), place)
                    total += counts
                    lines.append(line(one.__name__.replace("_", " "), counts))
        os.chdir(ROOT)
    lines.append(line("**all**", total))
    table = "\n".join(lines)
    print(table, f"{time.time() - start:,.0f} s", sep="\n")
    if write:
        readme = ROOT / "benchmarks" / "README.md"
        readme.write_text(between(readme.read_text(), "bad_inputs", table))
    if total["foreign"] or total["slow"]:
        sys.exit(1)
    return table


def count(kind: Kind, seeds: range, place: Place) -> Counter[str]:
    """Count what becomes of a kind's inputs, and print what is foreign."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        found = outcome(kind, seed, place)
        counts[found.word] += 1
        if found.word in ("foreign", "slow"):
            print(f"{kind.__name__} {seed}: {found.word} {found.what}", flush=True)
    return counts


def line(name: str, counts: Counter[str]) -> str:
    """Format a line of the table."""
    return f"| {name} | {counts.total():,} | " + " | ".join(f"{counts[w]:,}" for w in WORDS) + " |"


def base(folder: Path) -> str:
    """Write a small Llama, and return its folder."""
    tokenizer = word_tokenizer([f"w{i}" for i in range(60)])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


if __name__ == "__main__":
    auto_cli(bad_inputs)
