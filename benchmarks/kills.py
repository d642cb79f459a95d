"""Does a fit end in the same bits, wherever and however often it is killed?

    python benchmarks/kills.py [--trials 40] [--write true]

Each trial draws the settings of a Trainer, data and method, and one to four kills, by its seed
(``tests/kills.py``). The two modules that answer prompts, and a recipe, die by a real SIGKILL
(``tests/kill_harness.py``).
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import torch
from jsonargparse import auto_cli
from versus.harness import between

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import kill_legs  # noqa: E402
import kills  # noqa: E402
from kill_harness import Kill, run_killed  # noqa: E402
from lightning_rlhf.cli.main import quiet  # noqa: E402
from methods import METHODS, TITLES  # noqa: E402

LEGS = {  # the moments of each, and how often one start may reach them
    "self_critique": ("SelfCritiqueModule, predict", {"sample": 4}),
    "ai_feedback": ("AIFeedbackModule, predict", {"sample": 4}),
    "recipe": ("a recipe: SFT, then GRPO", {"save": 3, "step": 6}),
}
STORE = ROOT / "runs/kills"  # trials that were made; a stopped benchmark goes on
HEAD = "| | trials | kills | ended bit-equal | differ | settings drawn |\n|---|---|---|---|---|---|"


def main(trials: int = 40, only: str = "", write: bool = False) -> None:
    """Run, print, and write.

    Args:
        trials: of each method.
        only: one of the methods.
        write: the table into benchmarks/README.md.
    """
    quiet()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    lines = []
    for name in [*METHODS, *LEGS]:
        if only in ("", name):
            with tempfile.TemporaryDirectory() as home:
                row = of_method if name in METHODS else of_leg
                lines.append(row(name, trials, Path(home)))
                print(lines[-1], flush=True)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "kills", "\n".join([HEAD, *lines])))


def of_method(name: str, trials: int, home: Path) -> str:
    """Run the trials of a method that are not there yet; a line of the table."""
    base = kills.write_base(home / "base")
    STORE.mkdir(parents=True, exist_ok=True)
    store = STORE / f"{name}.jsonl"
    drawn = Counter[str]()
    for seed in range(trials):
        trial = kills.draw(name, seed)
        drawn.update(f"{key} {value}" for key, value in trial.settings.items())
        if seed not in found_in(store):
            ended = kills.run(base, home / str(seed), trial)
            with store.open("a") as file:
                file.write(json.dumps({"seed": seed, **ended._asdict()}) + "\n")
    found = [one for seed, one in found_in(store).items() if seed < trials]
    for one in found:
        if one["differs"]:
            print(f"{name} {one}", flush=True)
    equal = sum(not one["differs"] for one in found)
    died = sum(one["kills"] for one in found)
    settings = f"{len(drawn)} values of {len(kills.draw(name, 0).settings)}"
    return line(TITLES[name], len(found), died, equal, settings)


def found_in(store: Path) -> dict[int, dict[str, Any]]:
    """The trials that are stored, by their seed."""
    lines = store.read_text().splitlines() if store.exists() else []
    return {one["seed"]: one for one in map(json.loads, lines)}


def of_leg(name: str, trials: int, home: Path) -> str:
    """Kill real processes; a line of the table."""
    title, places = LEGS[name]
    base = kills.write_base(home / "base")
    equal = died = 0
    runs = max(1, trials // 4)
    for seed in range(runs):
        moments = some(places, random.Random(f"{name} {seed}"))
        folder = home / str(seed)
        folder.mkdir()
        leg: Any = getattr(kill_legs, name)
        whole, killed = run_killed(leg, folder, moments, base=base)
        equal += kill_legs.ends(whole) == kill_legs.ends(killed)
        died += len(moments)
    return line(title, runs, died, equal, "moments of a real SIGKILL")


def some(places: dict[str, int], draw: random.Random) -> list[Kill]:
    """Draw four moments."""
    names = draw.choices(list(places), k=4)
    return [Kill(n, draw.randint(1, places[n]), draw.choice(["before", "after"])) for n in names]


def line(title: str, trials: int, died: int, equal: int, drawn: str) -> str:
    return f"| {title} | {trials} | {died} | {equal} | {trials - equal} | {drawn} |"


if __name__ == "__main__":
    auto_cli(main)
