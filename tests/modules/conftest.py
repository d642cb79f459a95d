"""Fixtures of the modules' tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf import LoRA
from runs import Runs

FEW = LoRA(r=4, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def runs(tiny_base: str, tmp_path: Path) -> Runs:
    """Modules, data and Trainers on the tiny base."""
    return Runs(tiny_base, tmp_path)


@pytest.fixture(scope="session")
def one_layer(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny base cut down to one layer: what a flag does, no model's depth changes."""
    folder = tmp_path_factory.mktemp("shallow") / "base"
    shutil.copytree(tiny_base, folder)
    config = LlamaConfig.from_pretrained(tiny_base, num_hidden_layers=1)
    LlamaForCausalLM.from_pretrained(tiny_base, config=config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def light(one_layer: str, tmp_path: Path) -> Runs:
    """For hundreds of runs: as little of a model as has every part, and nothing logged."""
    return Runs(one_layer, tmp_path, lora=FEW, logger=False)
