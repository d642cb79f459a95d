"""Models of a few thousand weights that tests and checks load."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf.quickstart.model import word_tokenizer
from support import NUMBERS


def write_tiny_base(folder: Path) -> str:
    """Write a random Llama of 64 words, and return its folder."""
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
