"""Run two or more sides of one piece of work, step by step in turn, and make tables of them."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse import auto_cli
from rich.progress import track
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from lightning_rlhf.quickstart.model import word_tokenizer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEER = ROOT / ".peer/bin/python"
OURS, FITTED = "ours", "ours in a Trainer"
SCRIPTS = {OURS: (sys.executable, "ours.py"), FITTED: (sys.executable, "fitted.py")}
Device = Literal["cpu", "cuda"]
Row = dict[str, Any]  # prompt, completions

MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    },
    "wide": {
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32000,
    },
    "deep": {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 20,
        "num_attention_heads": 6, "num_key_value_heads": 6, "vocab_size": 32000,
    },
    "plain": {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32000,
    },
}  # fmt: skip
DTYPES = {"small": "bfloat16", "wide": "bfloat16", "deep": "bfloat16", "tiny": "float32",
          "plain": "float32"}  # fmt: skip
TOLERANCE = {"bfloat16": 3e-2, "float32": 3e-4}  # of the losses of two sides


class Work(NamedTuple):
    """One line of a table."""

    name: str
    method: str
    model: str
    rows: list[Row]
    checkpointing: bool = False
    quantization: str | None = None
    # only a real Trainer shows these
    lora: bool = True
    accumulate: int = 1
    precision: str = "32-true"
    optimizer: str | None = None  # of torch.optim; None: the module's own


class Measured(NamedTuple):
    """Figures of one side, one per round."""

    seconds: list[float]
    wall: list[float]
    peak: list[float]
    products: float
    attention: float


def equal(prompt: int, completion: int, rows: int = 1, k: int = 2) -> list[Row]:
    """Rows of one length."""
    draw = random.Random(0)
    return [_row(draw, prompt, [completion] * k) for _ in range(rows)]


def ragged(rows: int, k: int, median_length: int, seed: int = 0) -> list[Row]:
    """Rows of lognormal lengths, sigma 0.7, for prompts and completions."""
    draw = random.Random(seed)

    def length() -> int:
        return max(4, int(draw.lognormvariate(0, 0.7) * median_length))

    return [_row(draw, length(), [length() for _ in range(k)]) for _ in range(rows)]


def sizes(rows: list[Row]) -> str:
    """Token counts of the same rows: padded, unpadded, and with each prompt once."""
    whole = [len(row["prompt"]) + len(c) for row in rows for c in row["completions"]]
    once = sum(len(row["prompt"]) + sum(map(len, row["completions"])) for row in rows)
    return f"{max(whole) * len(whole)} padded, {sum(whole)} real, {once} shared"


def _row(draw: random.Random, prompt: int, completions: Sequence[int]) -> Row:
    def words(n: int) -> list[int]:
        return [draw.randrange(10, 30000) for _ in range(n)]

    return {"prompt": words(prompt), "completions": [words(n) for n in completions]}


def tokens(rows: list[Row]) -> int:
    """Number of tokens of every completion with its prompt: one numerator for every side."""
    return sum(len(row["prompt"]) + len(c) for row in rows for c in row["completions"])


def compare(work: Work, peers: Sequence[str], reps: int, device: Device) -> dict[str, Measured]:
    """Measure all sides in turn, round by round, after one step each to warm up.

    Raises:
        RuntimeError: the losses of two sides differ, so they do not do the same work.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, work.model)
        sides = {name: Side(name, work, folder, device=device) for name in (OURS, *peers)}
        try:
            _same_loss({name: side.ask("step") for name, side in sides.items()}, work)
            rounds: list[dict[str, dict[str, float]]] = []
            for _ in track(range(reps), description=work.name, transient=True):
                rounds.append({name: side.ask("step") for name, side in sides.items()})
            shares = {name: side.ask("profile") for name, side in sides.items()}
        finally:
            for side in sides.values():
                side.end()
    return {
        name: Measured(
            *([r[name][figure] for r in rounds] for figure in ("seconds", "wall", "peak")),
            **shares[name],
        )
        for name in sides
    }


def write_model(folder: str, name: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        **MODELS[name], tie_word_embeddings=True, max_position_embeddings=8192, pad_token_id=0
    )
    LlamaForCausalLM(config).to(getattr(torch, DTYPES[name])).save_pretrained(folder)
    word_tokenizer([f"w{i}" for i in range(8)]).save_pretrained(folder)


def _same_loss(first: dict[str, dict[str, float]], work: Work) -> None:
    ours = first[OURS]["loss"]
    for name, side in first.items():
        if abs(side["loss"] - ours) > TOLERANCE[DTYPES[work.model]] * abs(ours):
            raise RuntimeError(f"{work.name}: the loss is {ours} for us, {side['loss']} for {name}")


class Side:
    """A process that waits to be asked for a step."""

    def __init__(self, name: str, work: Work, model: str, *, device: Device, **environment: str):
        file = Path(model) / f"{name.replace(' ', '_')}.json"
        side = {"side": name, "model": model, "dtype": DTYPES[work.model], "device": device}
        file.write_text(json.dumps({**work._asdict(), **side}))
        python, script = SCRIPTS.get(name, (str(PEER), "peer.py"))
        self.name = name
        self.log = Path(model) / f"{file.stem}.log"
        self.process = subprocess.Popen(
            [python, str(HERE / script), str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                 "PYTHONPATH": str(ROOT / "src") if python == sys.executable else "",
                 **environment},
        )  # fmt: skip
        self.first = self._read()

    def ask(self, what: str) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ---- tables ----


def command(marker: str, works: Sequence[Work], in_short: int, peers: Sequence[str]) -> None:
    """Parse the command line of a comparison and run it; short: the first works, in two rounds."""

    def main(
        reps: int = 5, device: Device = "cpu", short: bool = False, write: bool = False
    ) -> None:
        """Measure and print.

        Args:
            reps: rounds; medians are printed.
            device: cuda takes CUDA events and the allocator's peak.
            short: fewer works, two rounds.
            write: put the table into benchmarks/README.md.
        """
        chosen = works[:in_short] if short else works
        run(chosen, peers, marker, 2 if short else reps, device, write)

    auto_cli(main, as_positional=True)


def run(
    works: Sequence[Work], peers: Sequence[str], marker: str, reps: int, device: Device, write: bool
) -> None:
    """Compare, print, and with ``write`` put the table into benchmarks/README.md."""
    logging.disable_progress_bar()
    if not PEER.is_file():
        sys.exit("no .peer/bin/python: `make .peer/.ready` installs the peer")
    lines = [HEAD, "|---" * len(COLUMNS) + "|"]
    for work in works:
        sides = compare(work, peers, reps, device)
        lines += rows_of(work, sides)
        print("\n".join(lines[-len(sides) :]), file=sys.stderr, flush=True)
    table = "\n".join(lines)
    print(table)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), marker, table))


COLUMNS = ["work", "side", "seconds", "wall", "peak MiB", "tokens/s", "time ×", "memory ×",
           "products", "attention"]  # fmt: skip
HEAD = "| " + " | ".join(COLUMNS) + " |"


def rows_of(work: Work, sides: dict[str, Measured]) -> list[str]:
    """Lines of a table, one per side: medians, and for peers the ratio to us with its range."""
    lines = []
    for name, side in sides.items():
        ratios = ["", ""]
        if name != OURS:
            pairs = (side.seconds, sides[OURS].seconds), (side.peak, sides[OURS].peak)
            ratios = [spread([a / b for a, b in zip(*p, strict=True)]) for p in pairs]
        per_second = tokens(work.rows) / median(side.seconds)
        lines.append(
            f"| {work.name if name == OURS else ''} | {name} | {median(side.seconds):.2f} | "
            f"{median(side.wall):.2f} | {median(side.peak):.0f} | {per_second:.0f} | {ratios[0]} | "
            f"{ratios[1]} | {100 * side.products:.0f} % | {100 * side.attention:.0f} % |"
        )
    return lines


def spread(ratios: list[float]) -> str:
    """Median of the rounds, with the smallest and the largest."""
    return f"**{median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f})"


def between(text: str, marker: str, new: str) -> str:
    """Put ``new`` between ``<!-- marker -->`` and ``<!-- /marker -->``.

    Raises:
        ValueError: the text has no such markers.
    """
    pattern = rf"(<!-- {marker}[^>]*-->\n).*?(<!-- /{marker} -->)"
    if re.search(pattern, text, re.DOTALL) is None:
        raise ValueError(f"no markers <!-- {marker} --> and <!-- /{marker} -->")
    return re.sub(pattern, lambda m: f"{m[1]}\n{new}\n\n{m[2]}", text, count=1, flags=re.DOTALL)
