"""Is the plan right? Planned against measured peak of real steps on a CPU.

    python benchmarks/plan_check.py [--write true] [--device cuda]

Measured: weights and optimizer state by their bytes, plus how far resident memory rises during the
second step. glibc hides what is freed unless told to give it back, so it is told to.
"""

from __future__ import annotations

import tempfile

import torch
from jsonargparse import auto_cli
from versus.harness import (
    DTYPES,
    FITTED,
    OURS,
    ROOT,
    Device,
    Side,
    Work,
    between,
    equal,
    ragged,
    write_model,
)

from lightning_rlhf import Backbone, DPOModule, LoRA, RewardModule, SFTModule
from lightning_rlhf.planning.budget import stepping_of
from lightning_rlhf.planning.plan import UNSEEN, plan_step

MODULES = {"dpo": DPOModule, "reward": RewardModule, "sft": SFTModule}
NF4 = "nf4"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


WORKS = [
    Work("512 + 512", "sft", "small", equal(512, 512, k=1)),
    Work("512 + 512", "sft", "small", equal(512, 512, k=1), checkpointing=True),
    Work("2 × (512 + 512)", "sft", "wide", equal(512, 512, rows=2, k=1), True, NF4),
    Work("8 × (32 + 96)", "sft", "tiny", equal(32, 96, rows=8, k=1)),
    Work("256 + 256", "sft", "deep", equal(256, 256, k=1), quantization=NF4),
    Work("256 + 2 × 256", "dpo", "small", equal(256, 256)),
    Work("256 + 2 × 256", "dpo", "small", equal(256, 256), checkpointing=True),
    Work("4 × (128 + 2 × 128)", "dpo", "wide", equal(128, 128, rows=4), True, NF4),
    Work("4 × (128 + 2 × 128)", "dpo", "wide", equal(128, 128, rows=4), quantization=NF4),
    Work("ragged, 6 pairs", "dpo", "tiny", ragged(6, 2, 64)),
    Work("256 + 2 × 256", "reward", "small", equal(256, 256), quantization=NF4),
    Work("256 + 4 × 128", "reward", "small", equal(256, 128, k=4)),
    Work("128 + 8 × 64", "reward", "deep", equal(128, 64, k=8), checkpointing=True),
    Work("ragged, 6 pairs", "reward", "wide", ragged(6, 2, 64)),
]
PLAIN = Work("8 × (32 + 96)", "sft", "plain", equal(32, 96, rows=8, k=1))
FITTED_WORKS = {
    "": PLAIN,
    "accumulating": PLAIN._replace(accumulate=2),
    "whole model": PLAIN._replace(lora=False),
    "whole model, accumulating": PLAIN._replace(lora=False, accumulate=2),
    "whole model, torch.optim.AdamW": PLAIN._replace(lora=False, optimizer="AdamW"),
    "whole model, bf16-mixed": PLAIN._replace(lora=False, precision="bf16-mixed"),
    "bf16-mixed": PLAIN._replace(precision="bf16-mixed"),
    "DPO": PLAIN._replace(name="256 + 2 × 256", method="dpo", rows=equal(256, 256)),
}


def main(write: bool = False, device: Device = "cpu") -> None:
    """Plan, measure and print.

    Args:
        write: put the table into benchmarks/README.md.
        device: on cuda the allocator's peak is measured; the context is left out of the plan.
    """
    lines = [
        "| model | base | method | rows | checkpointing | planned MiB | measured MiB | error | "
        "error of the rise |",
        "|---" * 9 + "|",
    ]
    for work in WORKS:
        planned, static, rise = _both(work, device)
        measured = static + rise
        lines.append(
            f"| {work.model} | {work.quantization or DTYPES[work.model]} | {work.method} | "
            f"{work.name} | {'yes' if work.checkpointing else ''} | {planned:.0f} | "
            f"{measured:.0f} | {100 * (planned / measured - 1):+.1f} % | "
            f"{100 * ((planned - static) / rise - 1):+.1f} % |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "Steps of a real Trainer, on an fp32 model of 8 layers:",
        "",
        "| run | rows | planned MiB | measured MiB | error | error of the rise |",
        "|---" * 6 + "|",
    ]
    for name, work in FITTED_WORKS.items():
        planned, static, rise = _fitted(work)
        measured = static + rise
        lines.append(
            f"| {name or 'LoRA'} | {work.name} | {planned:.0f} | {measured:.0f} | "
            f"{100 * (planned / measured - 1):+.1f} % | "
            f"{100 * ((planned - static) / rise - 1):+.1f} % |"
        )
        print(lines[-1], flush=True)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "plan_check", "\n".join(lines)))


def _both(work: Work, device: Device) -> tuple[float, float, float]:
    """MiB: planned, and measured at rest and on top."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, work.model)
        precision = "bf16-mixed" if DTYPES[work.model] == "bfloat16" else "32-true"
        planned = _planned(work, folder, precision, device)
        side = Side(OURS, work, folder, device=device, **GIVE_BACK)
        try:
            side.ask("step")
            rise = side.ask("step")["peak"]
            static = side.ask("static")["static"]
        finally:
            side.end()
    return planned, static, rise


def _fitted(work: Work) -> tuple[float, float, float]:
    """The same of a Trainer's step."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, work.model)
        planned = _planned(work, folder, work.precision, "cpu")
        side = Side(FITTED, work, folder, device="cpu", **GIVE_BACK)
        side.end()
    return planned, side.first["static"], side.first["rise"]


def _planned(work: Work, folder: str, precision: str, device: Device) -> float:
    """MiB, without what no tensor shows."""
    backbone = Backbone(
        folder, lora=LoRA(r=16, alpha=32) if work.lora else None, dtype=DTYPES[work.model],
        quantization=work.quantization, gradient_checkpointing=work.checkpointing,
    )  # fmt: skip
    make = getattr(torch.optim, work.optimizer) if work.optimizer else None
    stepping = stepping_of(make)._replace(accumulates=work.accumulate > 1)
    groups = [(len(row["prompt"]), *map(len, row["completions"])) for row in work.rows]
    module = MODULES[work.method](backbone)
    peak = plan_step(module, groups, precision, device, stepping).peak
    return (peak.total - peak.kinds.get(UNSEEN, 0)) / 2**20


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
