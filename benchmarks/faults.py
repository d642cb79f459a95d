"""Make every fault of tests/fault_table.py, and print what each came to as a table.

    python benchmarks/faults.py [--write] [NAME ...]

``--write`` puts the table into benchmarks/faults.md. A row is wrong if the exit status or the
sentence is another one, if a traceback is shown, or if something that was finished is lost.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from transformers import LlamaConfig, LlamaForCausalLM

from fault_table import FAULTS, make_place, run_fault, verdict
from lightning_rlhf.quickstart.model import word_tokenizer
from support import NUMBERS

PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
# Faults

`python benchmarks/faults.py --write`. Each row is one command in a process of its own, on a model
of one layer. "kept" says that checkpoints, rows, reports and roles which were finished before are
still whole, and that no broken one was written.

| fault | exit | what it says | kept |
|---|---|---|---|
"""


def make_base(folder: Path) -> None:
    """Write a random Llama of one layer and 64 words."""
    tokenizer = word_tokenizer(NUMBERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.15, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sentence(said: str) -> str:
    """The line that ends a command."""
    lines = [
        line for line in said.splitlines() if re.match(r"error: |stopped by|policy saved", line)
    ]
    shown = lines[-1].removeprefix("error: ") if lines else (said.strip().splitlines() or [""])[-1]
    shown = re.sub(r"[^\s(]*/(place/|(?=tests/))", "", shown)  # no folder of this machine
    return shown.replace("|", "\\|")[:300]


def main(arguments: list[str]) -> int:
    """Make the faults that are named, or all; return how many went wrong."""
    names = [a for a in arguments if not a.startswith("--")]
    faults = [f for f in FAULTS if not names or any(name in f.name for name in names)]
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as home:
        make_base(Path(home) / "base")
        make_place(Path(home), Path(home) / "base")
        for fault in faults:
            outcome = run_fault(fault, Path(home))
            bad = verdict(fault, outcome)
            wrong += bool(bad)
            kept = "yes" if outcome.kept else "NO"
            rows.append(f"| {fault.name} | {outcome.exit} | {sentence(outcome.said)} | {kept} |")
            print(rows[-1], f"<- {bad}\n{outcome.said[-1200:]}" if bad else "", flush=True)
    summary = f"{len(faults)} faults, {wrong} wrong"
    print(summary)
    if "--write" in arguments:
        PAGE.write_text(HEAD + "\n".join(rows) + f"\n\n{summary}.\n")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
