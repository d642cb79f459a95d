"""What every test may use. Nothing here reaches a network."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true")

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bases import write_tiny_base
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.models.lora import LoRA
from runs import Runs

FEW = LoRA(r=4, target_modules=["q_proj", "v_proj"])


@pytest.fixture(autouse=True, scope="session")
def _light() -> None:
    """Two processes of two threads each on two cores mostly wait for one another."""
    torch.set_num_threads(1)
    gc.freeze()  # a collection, and Lightning asks for some, need not go through every import
    quiet()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama of 64 words that any test may load."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


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
