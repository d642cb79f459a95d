"""Is one pass for policy and reference cheaper than two? CPU seconds of both, in 4 bits and not.

    python benchmarks/two_roles.py [--reps 5]

One pass would put the reference's rows beside the policy's in every matrix product, so that a 4-bit
weight is dequantized once. What it must cost is measured without writing it: a pass over the rows
twice. Its backward runs over all of them, too, since both halves are one tensor; two passes spare
the reference's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from jsonargparse import auto_cli
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf import Backbone, LoRA
from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.data.collate import token_batch
from lightning_rlhf.data.tokens import TokenRow

VOCABULARY = 8192


def main(reps: int = 5) -> None:
    """Measure and print a Markdown table.

    Args:
        reps: repetitions, the two interleaved; medians are printed.
    """
    torch.set_num_threads(1)
    print("| base | tokens | training: one pass / two | validation: one pass / two |")
    print("|---|---|---|---|")
    for quantization in (None, "nf4"):
        backbone = _backbone(quantization)
        for length in (32, 64, 128, 256, 512):
            training, validation = _ratios(backbone, length, reps)
            name = quantization or "bf16"
            print(f"| {name} | {length} | {training:.2f} | {validation:.2f} |", flush=True)


def _ratios(backbone: Backbone, length: int, reps: int) -> tuple[float, float]:
    """One pass to two: in training, where the policy alone goes back, and in validation."""
    once, twice = _tokens(length, rows=1), _tokens(length, rows=2)

    def two_passes() -> None:
        _look(backbone, once, "reference")
        _train(backbone, once)

    def two_looks() -> None:
        _look(backbone, once, "reference")
        _look(backbone, once, "policy")

    return (
        _ratio(lambda: _train(backbone, twice), two_passes, reps),
        _ratio(lambda: _look(backbone, twice, "policy"), two_looks, reps),
    )


def _backbone(quantization: str | None) -> Backbone:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=16,
        num_key_value_heads=4, vocab_size=VOCABULARY,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        options = {"lora": LoRA(r=16), "dtype": "bfloat16", "quantization": quantization}
        backbone = Backbone(folder, **options).load()  # type: ignore[arg-type]
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    return backbone


def _tokens(length: int, rows: int) -> TokenBatch:
    """A prompt's half and a completion's half, all of the latter counting."""
    half = length // 2
    ids = torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    return token_batch(
        [TokenRow(row[:half], [row[half:]], [[True] * half], [0]) for row in ids.tolist()]
    )


def _train(backbone: Backbone, tokens: TokenBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = backbone.logprobs(tokens, "policy").mean()
    loss.backward()


@torch.no_grad()
def _look(backbone: Backbone, tokens: TokenBatch, role: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backbone.logprobs(tokens, role)


def _ratio(one: Callable[[], object], other: Callable[[], object], reps: int) -> float:
    """The median over rounds of one's CPU seconds to the other's, after a round to warm up."""
    ratios = []
    for _ in range(reps + 1):
        a, b = (_seconds(one), _seconds(other))
        ratios.append(a / b)
    return statistics.median(ratios[1:])


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(3):
        work()
    return time.process_time() - start


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
