"""Rollouts beside transformers' own ``generate``: CPU seconds and memory on one model.

    python benchmarks/rollouts.py [--write true]

One process, one thread; the sides take turns. All sample from the same backbone at temperature 1:
8 prompts of 64 to 256 tokens, K completions each, at most 64 tokens. A random subset of a 24th of
the vocabulary ends a completion, so that lengths are ragged with a mean near 22. Theirs gets the
prompts left-padded, as its users give them; its log-probs, which ours returns, are left out.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from statistics import median

import torch
from jsonargparse import auto_cli
from transformers import GenerationConfig
from versus.harness import ROOT, between, write_model
from versus.measure import _measured

from lightning_rlhf import Backbone, LoRA
from lightning_rlhf.models.decoding import left_pad
from lightning_rlhf.models.loading import DType
from lightning_rlhf.models.rollout import HFRollout, Sampling

OURS, UNMERGED, THEIRS = "ours", "ours, not merged", "transformers"
LONGEST = 64
HEAD = ["base", "K", "side", "seconds", "ms a token", "peak MiB", "time ×", "memory ×"]
Figures = dict[str, float]


def main(model: str = "small", reps: int = 5, write: bool = False) -> None:
    """Measure and print.

    Args:
        model: of versus.harness.MODELS.
        reps: rounds; medians are printed.
        write: put the table into benchmarks/README.md.
    """
    torch.set_num_threads(1)
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        backbone = made(model, dtype)
        for k in (1, 4):
            sides = {
                OURS: ours(backbone, k, merge=True),
                UNMERGED: ours(backbone, k, merge=False),
                THEIRS: theirs(backbone, k),
            }
            found = {name: [measured(side) for _ in range(reps)] for name, side in sides.items()}
            lines += rows(dtype, k, found)
            print("\n".join(lines[-len(sides) :]), flush=True)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "rollouts", "\n".join(lines)))


def made(model: str, dtype: DType) -> Backbone:
    """The random model, its adapter warm."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, model)
        backbone = Backbone(folder, lora=LoRA(r=16), dtype=dtype).load()
        assert backbone.tokenizer is not None, "read while its folder is there"
    backbone.add_role("policy")
    backbone.base.requires_grad_(False)
    for parameter in backbone.role_parameters("policy"):
        torch.nn.init.normal_(parameter, std=0.01)
    vocabulary = backbone.base.config.vocab_size
    ends = random.Random(0).sample(range(vocabulary), vocabulary // 24)
    backbone.base.generation_config.eos_token_id = ends
    return backbone


def prompts() -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(10, 30000) for _ in range(draw.randint(64, 256))] for _ in range(8)]


def ours(backbone: Backbone, k: int, merge: bool) -> Callable[[], int]:
    """One rollout; returns how many tokens were kept."""

    def rollout() -> int:
        sampling = Sampling(max_new_tokens=LONGEST, samples=k)
        samples = HFRollout(merge).sample(backbone, "policy", prompts(), sampling)
        return sum(len(sample.ids) for sample in samples)

    return rollout


def theirs(backbone: Backbone, k: int) -> Callable[[], int]:
    """The same by ``generate``, the adapter switched on as peft leaves it."""
    model = backbone.base
    ends = model.generation_config.eos_token_id
    config = GenerationConfig(
        max_new_tokens=LONGEST, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        num_return_sequences=k, eos_token_id=ends, pad_token_id=0,
    )  # fmt: skip
    stops = torch.tensor(ends)

    def rollout() -> int:
        ids, mask = left_pad(prompts(), 0, model.device)
        model.eval()
        with torch.no_grad(), backbone.role("policy"):
            out = model.generate(ids, attention_mask=mask, generation_config=config)
        ended = torch.isin(out[:, ids.shape[1] :], stops).long().cumsum(1)
        return int((ended.cumsum(1) <= 1).sum())

    return rollout


def measured(side: Callable[[], int]) -> Figures:
    """CPU seconds, peak, and tokens kept."""
    found = _measured(lambda: float(side()), "cpu")
    return {**found, "ms": 1000 * found["seconds"] / found["loss"]}


def rows(dtype: str, k: int, found: dict[str, list[Figures]]) -> list[str]:
    """A line a side; ratios are of medians, time a token kept."""
    mid = {n: {f: median(r[f] for r in rounds) for f in rounds[0]} for n, rounds in found.items()}
    lines = []
    for name, one in mid.items():
        ratios = ["", ""]
        if name != OURS:
            ratios = [f"**{one[f] / mid[OURS][f]:.2f}**" for f in ("ms", "peak")]
        figures = [f"{one['seconds']:.2f}", f"{one['ms']:.1f}", f"{one['peak']:.0f}", *ratios]
        first = [dtype, str(k)] if name == OURS else ["", ""]
        lines.append("| " + " | ".join([*first, name, *figures]) + " |")
    return lines


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
