"""What a million preference pairs cost before the first step, the first time and the second.

    python benchmarks/million_rows.py [--rows 1000000]

Writes so many synthetic pairs, and a tenth of them, into temporary files and starts PreferenceData
twice on each, in fresh processes: from nothing, and with what the first start left in the cache. A
start ends with the first batch; imports are not counted. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from jsonargparse import auto_cli
from versus.harness import between

from lightning_rlhf import PreferenceData
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.quickstart.model import word_tokenizer

README = Path(__file__).parent / "README.md"
WORDS = [f"w{i}" for i in range(5000)]


def main(rows: int = 1_000_000, start: str | None = None) -> None:
    """Run, print and write the table.

    Args:
        rows: of the larger file.
        start: only start on this file, here, and print the figures; what the script asks of itself.
    """
    quiet()
    if start is not None:
        print(json.dumps(_start(start)))
        return
    lines = [
        "| pairs | file, MiB | start | s | CPU s | peak MiB | without mapped files | a worker's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for many in (rows // 10, rows):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.jsonl"
            _write(file, many)
            size = file.stat().st_size / 2**20
            for name in ("first", "second"):
                found = " | ".join(_in_a_process(file, Path(folder) / "cache"))
                lines.append(f"| {many:,} | {size:,.0f} | {name} | {found} |")
                print(lines[-1], flush=True)
    table = "\n".join(lines)
    README.write_text(between(README.read_text(), "million_rows", table))
    print(table)


def _write(file: Path, rows: int) -> None:
    """Prompts of 5 to 40 words and answers of 5 to 60, a word a token."""
    draw = random.Random(0)

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(5, most)))

    with file.open("w") as out:
        for _ in range(rows):
            row = {"prompt": words(40), "chosen": words(60), "rejected": words(60)}
            out.write(json.dumps(row) + "\n")


def _in_a_process(file: Path, cache: Path) -> list[str]:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--start", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    return [f"{figures['wall']:.1f}", f"{figures['cpu']:.1f}"] + [
        f"{figures[name]:,.0f}" for name in ("peak", "own", "worker")
    ]


def _start(file: str) -> dict[str, float]:
    """Seconds and MiB from a file to its first batch under a budget of tokens."""
    tokenizer = word_tokenizer(WORDS)
    watch = Watch()
    watch.start()
    wall, cpu = time.perf_counter(), _cpu()
    data = PreferenceData(file, max_tokens=4096, tokenizer=tokenizer)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.tokens.input_ids.shape[1] > 3000
    wall, cpu = time.perf_counter() - wall, _cpu() - cpu
    watch.stop()
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF,
             resource.RUSAGE_CHILDREN)]  # fmt: skip
    return {"wall": wall, "cpu": cpu, "peak": peaks[0], "own": watch.most, "worker": peaks[1]}


def _cpu() -> float:
    """Of this process and of those it waited for."""
    return sum(os.times()[:4])


class Watch(threading.Thread):
    """Peak memory of this process without mapped files, sampled fifty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            found = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            self.most = max(self.most, int(found.split()[1]) / 1024)

    def stop(self) -> None:
        self.over.set()
        self.join()


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
