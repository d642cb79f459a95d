"""Rollouts beside transformers' own ``generate``: CPU seconds and memory on one model.

    python benchmarks/rollouts.py [--write true]

One process, one thread; the sides take turns. All sample from the same backbone at temperature 1:
8 prompts of 64 to 256 tokens, K completions each. What ends a completion is taken out of chance's
hands, so that all do the same work: lengths are lognormal with a median of 20, 64 at most, the same
on every side. Theirs gets the prompts left-padded, as its users give them; its log-probs, which
ours returns, are left out.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from statistics import median

import torch
from jsonargparse import auto_cli
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from versus.harness import ROOT, between, write_model
from versus.measure import _measured

from lightning_rlhf import Backbone, LoRA
from lightning_rlhf.models import decoding
from lightning_rlhf.models.loading import DType
from lightning_rlhf.models.sampler import HFSampler, Sampling

OURS, UNMERGED, THEIRS = "ours", "ours, not merged", "transformers"
LONGEST = 64
HEAD = ["base", "K", "side", "seconds", "ms a token", "peak MiB", "time ×", "memory ×"]
Figures = dict[str, float]


def main(
    model: str = "small",
    dtypes: tuple[DType, ...] = ("float32",),
    reps: int = 3,
    write: bool = False,
) -> None:
    """Measure and print.

    Args:
        model: of versus.harness.MODELS.
        dtypes: of the base.
        reps: rounds; medians are printed.
        write: put the table into benchmarks/README.md.
    """
    torch.set_num_threads(1)
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for dtype in dtypes:
        backbone = made(model, dtype)
        for k in (1, 4):
            sides = {
                OURS: ours(backbone, k, merge=True),
                UNMERGED: ours(backbone, k, merge=False),
                THEIRS: theirs(backbone, k),
            }
            found: dict[str, list[Figures]] = {name: [] for name in sides}
            for turn in range(reps + 1):
                for name, side in sides.items():
                    figures = measured(side, k)
                    if turn > 0:  # the first warms up
                        found[name].append(figures)
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
    backbone.tokenizer.eos_token_id = backbone.base.generation_config.eos_token_id = None
    return backbone


def prompts() -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(10, 30000) for _ in range(draw.randint(64, 256))] for _ in range(8)]


def lengths(k: int) -> list[int]:
    """Of every completion."""
    draw = random.Random(1)
    return [min(LONGEST, max(1, int(20 * draw.lognormvariate(0, 0.8)))) for _ in range(8 * k)]


def ours(backbone: Backbone, k: int, merge: bool) -> Callable[[], None]:
    """One rollout, its rows ended at their lengths."""

    def rollout() -> None:
        ends: dict[int, int] = {}  # by the identity of a row's list
        left = iter(lengths(k))

        def ended(ids: list[int], rules: decoding.StopRules) -> bool:
            if len(ids) == 1:
                ends[id(ids)] = next(left)
            return len(ids) == ends[id(ids)]

        own, decoding._ended = decoding._ended, ended
        try:
            sampling = Sampling(max_new_tokens=LONGEST, num_samples=k)
            found = HFSampler(merge).sample(backbone, "policy", prompts(), sampling)
        finally:
            decoding._ended = own
        assert sorted(len(sample.ids) for sample in found) == sorted(lengths(k))

    return rollout


class _Ends(StoppingCriteria):
    def __init__(self, prompt: int, k: int):
        self.prompt, self.lengths = prompt, torch.tensor(lengths(k))

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return self.lengths <= input_ids.shape[1] - self.prompt


def theirs(backbone: Backbone, k: int) -> Callable[[], None]:
    """The same by ``generate``, the adapter switched on as peft leaves it."""
    model = backbone.base
    config = GenerationConfig(
        max_new_tokens=LONGEST, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        num_return_sequences=k, pad_token_id=0,
    )  # fmt: skip

    def rollout() -> None:
        ids, mask = decoding.left_pad(prompts(), 0, model.device)
        ends = StoppingCriteriaList([_Ends(ids.shape[1], k)])
        model.eval()
        with torch.no_grad(), backbone.role("policy"):
            out = model.generate(
                ids, attention_mask=mask, generation_config=config, stopping_criteria=ends
            )
        assert out.shape[1] - ids.shape[1] == max(lengths(k))

    return rollout


def measured(side: Callable[[], None], k: int) -> Figures:
    """CPU seconds, peak, and milliseconds to a token kept."""
    found = _measured(lambda: side() or 0.0, "cpu")
    return {**found, "ms": 1000 * found["seconds"] / sum(lengths(k))}


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
