"""DPO in the micro-world at several betas: why the quickstart uses 0.5 and not the usual 0.1.

    python benchmarks/dpo_beta.py

From the SFT model and preferences of one seed of stability.py; held-out combinations, sampled at
temperature 1.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli
from pytorch_lightning import seed_everything
from worlds import fit

from lightning_rlhf import Backbone, DPOModule, LoRA, PreferenceData
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.models.backbone import POLICY
from lightning_rlhf.quickstart.measure import sample
from lightning_rlhf.quickstart.world import World

SETTINGS = [(0.1, 3e-4), (0.1, 1e-3), (0.3, 1e-3), (0.5, 1e-3), (1.0, 1e-3)]


def main(home: str = "runs/stability/0") -> None:
    """Train from the same start at each setting and print the table.

    Args:
        home: a seed of stability.py, which leaves an SFT model and preferences.
    """
    quiet()
    left = Path(home)
    prompts = World(0).prompts(held_out=True)
    print("| beta | lr | fully good | EOS share | KL, nats |\n|---|---|---|---|---|")
    for beta, lr in SETTINGS:
        seed_everything(0, verbose=False)
        backbone = Backbone(str(left / "sft/model"), lora=LoRA(r=16), dtype="float32")
        data = PreferenceData(str(left / "preferences.jsonl"), batch_size=24)
        fit(DPOModule(backbone, beta=beta, lr=lr), data, Path(f"runs/bench/beta_{beta}_{lr}"))
        found = sample(backbone, POLICY, prompts).metrics
        print(
            f"| {beta} | {lr:.0e} | {found['fully_good']:.1%} | {found['eos_share']:.1%} "
            f"| {found['kl']:.2f} |"
        )


if __name__ == "__main__":
    auto_cli(main)
