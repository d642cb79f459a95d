"""Roles become folders at the end of a fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from lightning_rlhf import Backbone, Critic, LoRA, PPOModule, PromptData, Sampling
from lightning_rlhf.callbacks import SaveRoles
from methods import OFFLINE, low_numbers
from runs import Runs
from support import number_pairs


def test_a_critic_that_is_a_head_alone_stays_in_the_checkpoint(
    tiny_base: str, tmp_path: Path
) -> None:
    backbone = Backbone(tiny_base, dtype="float32", lora=LoRA(r=4))
    sampling = Sampling(max_new_tokens=4)
    module = PPOModule(backbone, reward=low_numbers, critic=Critic("head"), sampling=sampling)
    Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[SaveRoles(str(tmp_path))],
    ).fit(module, PromptData(number_pairs(8), batch_size=4, val_fraction=0))  # fmt: skip
    assert [folder.name for folder in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize("method", OFFLINE)
def test_roles_are_saved_at_the_end(runs: Runs, method: str) -> None:
    module, data = runs.make(method)
    runs.trainer(callbacks=[SaveRoles(str(runs.folder / "out"))], max_steps=1).fit(module, data)
    role = module.trained[0]
    assert (runs.folder / "out" / role / "adapter_model.safetensors").is_file()
    assert (runs.folder / "out" / role / "tokenizer.json").is_file()
