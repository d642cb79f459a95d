"""What every test may use. Nothing here reaches a network."""

from __future__ import annotations

import gc
import os

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true")

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf.cli import quiet
from lightning_rlhf.quickstart.model import word_tokenizer
from support import NUMBERS


@pytest.fixture(autouse=True, scope="session")
def _light() -> None:
    """Two processes of two threads each on two cores mostly wait for one another."""
    torch.set_num_threads(1)
    gc.freeze()  # a collection, and Lightning asks for some, need not go through every import
    quiet()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama of 64 words that any test may load."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    tokenizer = word_tokenizer(NUMBERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,  # narrow models learn nothing from the usual 0.02
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
