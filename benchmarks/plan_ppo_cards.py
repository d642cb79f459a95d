"""Does each configs/ppo_*gb.yaml fit its card, by the plan?

    python benchmarks/plan_ppo_cards.py [--write true]

Planned, not measured, on a GPU. Shapes are those the models publish, written out in plan_table.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from jsonargparse import auto_cli
from plan_table import SHAPES
from pytorch_lightning import LightningDataModule, LightningModule
from transformers import LlamaConfig
from versus.harness import ROOT, between

from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
from lightning_rlhf.planning.budget import in_gib, run_of

CARDS = (8, 12, 16, 24)
SHAPE_OF = {
    "Qwen/Qwen2.5-3B-Instruct": "3B (Qwen2.5)",
    "Qwen/Qwen2.5-7B-Instruct": "7B (Qwen2.5)",
    "meta-llama/Llama-3.1-8B-Instruct": "8B (Llama 3.1)",
}


def main(write: bool = False) -> None:
    """Plan and print.

    Args:
        write: put the table into benchmarks/README.md.
    """
    lines = ["| card | model | critic | rows of a step | GiB at the peak |", "|---" * 5 + "|"]
    lines += [line(card) for card in CARDS]
    text = "\n".join(lines)
    print(text)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "plan_ppo_cards", text))


def line(card: int) -> str:
    """The plan of one card's largest update."""
    config = ROOT / f"configs/ppo_{card}gb.yaml"
    model = next(name for name in SHAPE_OF if name in config.read_text())
    with tempfile.TemporaryDirectory() as folder:
        write_config(SHAPE_OF[model], Path(folder))
        cli = AlignmentCLI(
            LightningModule, LightningDataModule,
            **{**cli_options(), "run": False, "save_config_callback": None},
            args=[
                f"--config={config}", f"--model.backbone.name_or_path={folder}",
                "--trainer.accelerator=cpu",
                "--trainer.logger=false",
            ],
        )  # fmt: skip
        run = run_of(cli.model, cli.datamodule, "bf16-mixed", "cuda", False)
        peak = run.plan().peak.total
    prompt, *completions = run.groups[0]
    rows = f"{run.rows} × ({prompt} + {completions[0]}) tokens"
    return f"| {card} GB | {model} | {cli.model.critic} | {rows} | {in_gib(peak)} |"


def write_config(name: str, folder: Path) -> None:
    """A model's config, as a folder."""
    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = SHAPES[name]
    LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, vocab_size=vocabulary,
        tie_word_embeddings=tied, max_position_embeddings=131072,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
