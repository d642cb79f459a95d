"""Is the plan right? Planned against measured peak of real steps on a CPU.

    python benchmarks/plan_check.py [--write true] [--device cuda]

Measured: weights and optimizer state by their bytes, plus how far resident memory rises during the
second step. glibc hides what is freed unless told to give it back, so it is told to.
"""

from __future__ import annotations

import tempfile

from jsonargparse import auto_cli
from versus.harness import (
    DTYPES,
    OURS,
    ROOT,
    Device,
    Row,
    Side,
    Work,
    between,
    equal,
    ragged,
    write_model,
)

from lightning_rlhf import Backbone, DPOModule, LoRA, RewardModule, SFTModule
from lightning_rlhf.planning.plan import UNSEEN, plan_step

MODULES = {"dpo": DPOModule, "reward": RewardModule, "sft": SFTModule}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def _work(
    name: str,
    method: str,
    model: str,
    rows: list[Row],
    checkpointing: bool = False,
    nf4: bool = False,
) -> Work:
    return Work(name, method, model, rows, checkpointing, "nf4" if nf4 else None)


WORKS = [
    _work("512 + 512", "sft", "small", equal(512, 512, k=1)),
    _work("512 + 512", "sft", "small", equal(512, 512, k=1), checkpointing=True),
    _work("2 × (512 + 512)", "sft", "wide", equal(512, 512, rows=2, k=1), True, nf4=True),
    _work("8 × (32 + 96)", "sft", "tiny", equal(32, 96, rows=8, k=1)),
    _work("256 + 256", "sft", "deep", equal(256, 256, k=1), nf4=True),
    _work("256 + 2 × 256", "dpo", "small", equal(256, 256)),
    _work("256 + 2 × 256", "dpo", "small", equal(256, 256), checkpointing=True),
    _work("4 × (128 + 2 × 128)", "dpo", "wide", equal(128, 128, rows=4), True, nf4=True),
    _work("4 × (128 + 2 × 128)", "dpo", "wide", equal(128, 128, rows=4), nf4=True),
    _work("ragged, 6 pairs", "dpo", "tiny", ragged(6, 2, 64)),
    _work("256 + 2 × 256", "reward", "small", equal(256, 256), nf4=True),
    _work("256 + 4 × 128", "reward", "small", equal(256, 128, k=4)),
    _work("128 + 8 × 64", "reward", "deep", equal(128, 64, k=8), checkpointing=True),
    _work("ragged, 6 pairs", "reward", "wide", ragged(6, 2, 64)),
]


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
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "plan_check", "\n".join(lines)))


def _both(work: Work, device: Device) -> tuple[float, float, float]:
    """MiB: planned, and measured at rest and on top."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, work.model)
        dtype = DTYPES[work.model]
        backbone = Backbone(
            folder, lora=LoRA(r=16, alpha=32), dtype=dtype, quantization=work.quantization,
            gradient_checkpointing=work.checkpointing,
        )  # fmt: skip
        groups = [(len(row["prompt"]), *map(len, row["completions"])) for row in work.rows]
        precision = "bf16-mixed" if dtype == "bfloat16" else "32-true"
        planned = plan_step(MODULES[work.method](backbone), groups, precision, device)
        side = Side(OURS, work, folder, device, **GIVE_BACK)
        try:
            side.ask("step")
            rise = side.ask("step")["peak"]
            static = side.ask("static")["static"]
        finally:
            side.end()
    peak = planned.peak
    return (peak.total - peak.kinds.get(UNSEEN, 0)) / 2**20, static, rise


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
