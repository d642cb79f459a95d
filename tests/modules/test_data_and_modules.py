"""Where data and modules meet: whose tokens the rows are."""

from __future__ import annotations

from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf import Backbone, PreferenceData, RewardModule
from lightning_rlhf.quickstart.model import word_tokenizer
from runs import Runs
from support import NUMBERS, number_pairs


def test_one_data_module_and_two_tokenizers(runs: Runs, tmp_path: Path) -> None:
    """The second module must not be handed the first one's ids."""
    other = word_tokenizer(NUMBERS[::-1])
    config = LlamaConfig(
        vocab_size=len(other), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    data = PreferenceData(number_pairs(8), val_fraction=0, batch_size=8)
    read = []
    for base in (runs.base, str(tmp_path / "other")):
        backbone = Backbone(base, dtype="float32")
        runs.trainer(max_steps=1).fit(RewardModule(backbone), data)
        read.append([backbone.tokenizer.decode(row.prompt_ids) for row in data.sample_rows(8)])
    assert read[0] == read[1] == [row["prompt"] for row in number_pairs(8)]
