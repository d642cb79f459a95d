"""What fits on which card, by the plan: tokens to a step for six models, methods and cards.

    python benchmarks/plan_table.py [--write true]

Planned, not measured, on a GPU. Shapes are those the models publish in their configs, written out
here so that nothing is fetched.
"""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import auto_cli
from transformers import LlamaConfig
from versus.harness import ROOT, between

from lightning_rlhf import Backbone, DPOModule, LoRA, RewardModule, SFTModule
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning.budget import Run, in_gib, largest
from lightning_rlhf.planning.plan import GIB, Stepping

# hidden, intermediate, layers, heads, key heads, vocabulary, tied
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "0.5B (Qwen2.5)": (896, 4864, 24, 14, 2, 151936, True),
    "1B (Llama 3.2)": (2048, 8192, 16, 32, 8, 128256, True),
    "1.5B (Qwen2.5)": (1536, 8960, 28, 12, 2, 151936, True),
    "3B (Qwen2.5)": (2048, 11008, 36, 16, 2, 151936, True),
    "7B (Qwen2.5)": (3584, 18944, 28, 28, 4, 152064, False),
    "8B (Llama 3.1)": (4096, 14336, 32, 32, 8, 128256, False),
}
METHODS = {"SFT": SFTModule, "reward": RewardModule, "DPO": DPOModule}
CARDS = (8, 12, 16, 24)


class PPOShaped(AlignmentModule):
    """What an update of PPO would hold: four roles on the base, two of them trained at once."""

    trained = ("policy", "critic")

    def __init__(self, backbone: Backbone):
        super().__init__(backbone, lr=1e-5)

    def add_roles(self) -> None:
        self.add_policy_and_reference()
        self.backbone.add_role("reward", trainable=False, init_from="policy", head=True)
        self.backbone.add_role("critic", init_from="policy", head=True)

    def objective(self, batch: Any) -> Loss:
        tokens = batch.tokens
        with torch.no_grad():
            before = self.backbone.logprobs(tokens, "reference")
            score = self.backbone.scores(tokens, "reward").sum()
        values = self.backbone.head("critic")(self.backbone.hidden_states(tokens, "critic"))
        ratio = self.backbone.logprobs(tokens, "policy") - before
        return Loss(ratio.mean() + (values - score).square().mean(), {})


SHAPED: dict[str, Any] = {**METHODS, "PPO-shaped": PPOShaped}


def main(write: bool = False) -> None:
    """Plan and print.

    Args:
        write: put the tables into benchmarks/README.md.
    """
    lines = [
        "The longest row that fits, prompt and one completion, half each; a pair holds the prompt "
        "once and two completions.",
        "",
        "| model | method | " + " | ".join(f"{card} GB" for card in CARDS) + " |",
        "|---" * (2 + len(CARDS)) + "|",
    ]
    for name in SHAPES:
        for method in METHODS:
            fitting = [largest(_run(name, method, 1024), card * GIB, "length") for card in CARDS]
            figures = [f"{length:,}" if length else "no" for length in fitting]
            lines.append(f"| {name} | {method} | " + " | ".join(figures) + " |")
            print(lines[-1], flush=True)
    lines += ["", *_eight_billion()]
    print("\n".join(lines))
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "plan_table", "\n".join(lines)))


def _run(name: str, method: str, length: int, **options: Any) -> Run:
    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, vocab_size=vocabulary,
        tie_word_embeddings=tied, max_position_embeddings=131072,
    )  # fmt: skip
    backbone = Backbone(
        name, quantization="nf4", lora=LoRA(r=16), dtype="bfloat16", gradient_checkpointing=True,
        **options,
    )  # fmt: skip
    half = length // 2
    row = (half, *[length - half] * (1 if method == "SFT" else 2))
    return Run(SHAPED[method](backbone), [row], "bf16-mixed", "cuda", Stepping(), config)


def _eight_billion() -> list[str]:
    """An 8B step of 1,024 tokens, and what each option makes of it."""
    lines = [
        "8B, one row of 1,024 tokens (512, and one completion of 512, or two), GiB at the peak:",
        "",
        "| method | as above | embedding on the host | and activations | and 8-bit optimizer |",
        "|---|---|---|---|---|",
    ]
    name = "8B (Llama 3.1)"
    for method in SHAPED:
        host = _run(name, method, 1024, offload=["embedding"])
        both = _run(name, method, 1024, offload=["embedding", "activations"])
        runs = [_run(name, method, 1024), host, both, both._replace(stepping=Stepping(state=2))]
        peaks = [in_gib(run.plan().peak.total) for run in runs]
        lines.append(f"| {method} | " + " | ".join(peaks) + " |")
    _, _, layers, heads, key_heads, _, _ = SHAPES[name]
    cache = 2 * 2 * layers * key_heads * (SHAPES[name][0] // heads) * 1024
    lines += [
        "",
        "PPO-shaped: policy and critic, each with an adapter of its own, go forward and back in "
        "one step over 512 + 2 × 512 tokens, beside the frozen adapter of a reward and the bare "
        f"base as the reference. The keys and values of 1,024 tokens take {in_gib(cache)} GiB "
        "while they are sampled, when none of the activations are there.",
    ]
    return lines


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
