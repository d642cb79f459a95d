"""PPO beside TRL: seconds, memory and ratios on the same model, prompts, lengths and epochs.

python benchmarks/ppo_vs_trl.py [--reps 5] [--short true] [--write true]

A step is one rollout with all its updates. Before anything is measured our sides replay the peer's
first rollout: scores, KL and value loss must be the same.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from jsonargparse import auto_cli
from rich.progress import track
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging
from versus import harness

from lightning_rlhf.quickstart.model import word_tokenizer

PEER = harness.ROOT / ".peer-ppo/bin/python"
TRL, OURS = ["TRL", "TRL, value LoRA"], ["ours, head", "ours, adapter"]
harness.SCRIPTS |= dict.fromkeys(TRL, (str(PEER), "ppo_peer.py"))
harness.SCRIPTS |= dict.fromkeys(OURS, (sys.executable, "ppo_ours.py"))
TOLERANCE = 2e-2  # of score and value loss; updates of another critic come between
NEVER, OFTEN = 1e-12, 1 / 24  # how likely a token is, at every place
Round = dict[str, dict[str, float]]


class Work(NamedTuple):
    """One line of the table."""

    name: str
    model: str
    prompts: list[list[int]]
    new: int  # tokens, at most
    end: float  # how likely the end token is at every place
    epochs: int = 4
    checkpointing: bool = False


def prompts(rows: int, length: int) -> list[list[int]]:
    """Of one length: no side pads them."""
    return [row["prompt"] for row in harness.equal(length, 1, rows)]


WORKS = [
    Work("tiny, fixed: 8 × (64 + 64)", "tiny", prompts(8, 64), 64, NEVER),
    Work("tiny, EOS: 8 × (64 + up to 64)", "tiny", prompts(8, 64), 64, OFTEN),
    Work("tiny, fixed, checkpointing", "tiny", prompts(8, 64), 64, NEVER, checkpointing=True),
    Work("plain, fixed: 8 × (64 + 64)", "plain", prompts(8, 64), 64, NEVER),
    Work("plain, EOS: 8 × (64 + up to 64)", "plain", prompts(8, 64), 64, OFTEN),
]


def write_model(folder: str, work: Work) -> None:
    """Random weights: the end token about as likely as ``work`` says, the pad token never.

    Every embedding has the same first coordinate, which the stream then carries to the head; tied
    to them, it shifts all logits alike, and those of a token with another first coordinate more.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        **harness.MODELS[work.model], tie_word_embeddings=True, pad_token_id=0,
        max_position_embeddings=8192,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        first = model.get_input_embeddings().weight[:, 0]
        first.fill_(1.0)
        carried = float(model.model(torch.tensor(work.prompts)).last_hidden_state[..., 0].mean())
        for token, share in ((config.pad_token_id, NEVER), (config.eos_token_id, work.end)):
            first[token] += math.log(share * config.vocab_size) / carried
    model.save_pretrained(folder)
    word_tokenizer([f"w{i}" for i in range(8)]).save_pretrained(folder)


def compare(work: Work, reps: int) -> list[Round]:
    """All sides in turn, round by round, after one rollout each to warm up.

    Raises:
        RuntimeError: sides that say different things of the same completions.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, work)
        sides, first = {}, {}
        try:
            for name in [*TRL, *OURS]:  # the first records its rollout, ours replay it
                sides[name] = harness.Side(name, work, folder, device="cpu")  # type: ignore[arg-type]
                first[name] = sides[name].ask("step")
            _same(first, work)
            rounds = [
                {name: side.ask("step") for name, side in sides.items()}
                for _ in track(range(reps), description=work.name, transient=True)
            ]
        finally:
            for side in sides.values():
                side.end()
    return rounds


def _same(first: Round, work: Work) -> None:
    """Score, KL and value loss of one and the same rollout."""
    theirs = first[TRL[0]]
    for name in OURS:
        for what, least in (("score", 0.1), ("kl", 1.0), ("value_loss", 0.1)):
            told, wanted = first[name][what], theirs[what]
            if abs(told - wanted) > TOLERANCE * max(abs(wanted), least):
                raise RuntimeError(f"{work.name}: {what} is {told} for {name}, {wanted} for TRL")


COLUMNS = ["work", "side", "seconds", "wall", "rollout", "rise MiB", "total MiB", "length",
           "tokens/s", "time ×", "rise ×", "total ×"]  # fmt: skip


def rows_of(work: Work, rounds: list[Round]) -> list[str]:
    """A line a side: medians; for ours, TRL's figure over it, round by round."""
    lines = []
    for name in [*TRL, *OURS]:
        own = [r[name] for r in rounds]
        for side in own:
            side["total"] = side["top"] - side["imported"]
            side["tokens"] = len(work.prompts) * (len(work.prompts[0]) + side["length"])
    for name in [*TRL, *OURS]:
        own = [r[name] for r in rounds]
        middle = {what: median(side[what] for side in own) for what in own[0]}
        ratios = ["", "", ""]
        if name in OURS:
            ratios = [
                " / ".join(
                    harness.spread([r[peer][what] / r[name][what] for r in rounds]) for peer in TRL
                )
                for what in ("seconds", "peak", "total")
            ]
        speed = median(side["tokens"] / side["seconds"] for side in own)
        lines.append(
            f"| {work.name if name == TRL[0] else ''} | {name} | {middle['seconds']:.2f} | "
            f"{middle['wall']:.2f} | {middle['rollout']:.2f} | {middle['peak']:.0f} | "
            f"{middle['total']:.0f} | {middle['length']:.1f} | {speed:.0f} | "
            f"{' | '.join(ratios)} |"
        )
    return lines


def main(reps: int = 5, short: bool = False, write: bool = False) -> None:
    """Measure and print.

    Args:
        reps: rounds; medians are printed.
        short: the first two works, two rounds.
        write: put the table into benchmarks/README.md.
    """
    logging.disable_progress_bar()
    if not PEER.is_file():
        sys.exit("no .peer-ppo/bin/python: `make .peer-ppo/.ready` installs the peer")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for work in WORKS[:2] if short else WORKS:
        lines += rows_of(work, compare(work, 2 if short else reps))
        print("\n".join(lines[-len(TRL + OURS) :]), file=sys.stderr, flush=True)
    table = "\n".join(lines)
    print(table)
    if write:
        readme = Path(harness.ROOT, "benchmarks/README.md")
        readme.write_text(harness.between(readme.read_text(), "ppo_vs_trl", table))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
