"""Do thumbs alone teach? KTO on one side of each pair of the micro-world, over several seeds.

    python benchmarks/kto_thumbs.py [--seeds 5]

Of every pair one side is kept, by a coin: an answer, and whether it was the better one. A tenth of
these thumbs point the wrong way, as in the pairs. Figures are of held-out combinations of task and
manner, sampled at temperature 1. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import mean
from typing import Any

from jsonargparse import auto_cli
from pytorch_lightning import seed_everything
from stability import HOME, start
from versus.harness import between
from worlds import fit

from lightning_rlhf import Backbone, KTOModule, LoRA, PreferenceData
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.functional.kto import apo_zero_unpaired_loss, kto_loss
from lightning_rlhf.models.backbone import POLICY
from lightning_rlhf.quickstart.measure import sample
from lightning_rlhf.quickstart.world import World

README = Path(__file__).parent / "README.md"


def main(seeds: int = 5) -> None:
    """Run, print and write the table.

    Args:
        seeds: how many, from 0.
    """
    quiet()
    lines = [
        "| seed | SFT fully good | KTO | APO-zero unpaired | KTO EOS share | KTO KL, nats |",
        "|---|---|---|---|---|---|",
    ]
    rows = [_one(seed) for seed in range(seeds)]
    named = [(str(seed), row) for seed, row in enumerate(rows)]
    for name, row in [*named, ("mean", [mean(column) for column in zip(*rows, strict=True)])]:
        shares = " | ".join(f"{100 * value:.1f} %" for value in row[:-1])
        lines.append(f"| {name} | {shares} | {row[-1]:.2f} |")
    table = "\n".join(lines)
    README.write_text(between(README.read_text(), "kto_thumbs", table))
    print(table)


def _one(seed: int) -> list[float]:
    folder = HOME / str(seed)
    start(seed)
    file = folder / "thumbs.jsonl"
    pairs = (folder / "preferences.jsonl").read_text().splitlines()
    file.write_text("".join(json.dumps(row) + "\n" for row in _thumbs(pairs, seed)))
    prompts = World(seed).prompts(held_out=True)
    sft = Backbone(str(folder / "sft/model"), dtype="float32").load()
    sft.add_role(POLICY)
    before = sample(sft, POLICY, prompts).metrics["fully_good"]
    kto = _trained(folder, file, kto_loss, prompts)
    apo = _trained(folder, file, apo_zero_unpaired_loss, prompts)
    return [before, kto["fully_good"], apo["fully_good"], kto["eos_share"], kto["kl"]]


def _thumbs(pairs: list[str], seed: int) -> list[dict[str, Any]]:
    coin = random.Random(f"{seed} thumbs")
    rows = []
    for pair in map(json.loads, pairs):
        side = coin.choice(["chosen", "rejected"])
        rows.append({"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"})
    return rows


def _trained(folder: Path, file: Path, loss: Any, prompts: list[str]) -> dict[str, float]:
    seed_everything(0, verbose=False)
    backbone = Backbone(str(folder / "sft/model"), lora=LoRA(r=16), dtype="float32")
    data = PreferenceData(str(file), val_fraction=0.05, batch_size=24)
    fit(KTOModule(backbone, loss=loss, beta=0.5, lr=1e-3), data, folder / loss.__name__)
    return sample(backbone, POLICY, prompts).metrics


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
