"""What a checkpoint holds, and what it refuses to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rlhf import Backbone, DPOModule, LoRA, RewardModule, SFTModule
from lightning_rlhf.modules.base import AlignmentModule
from methods import METHODS, OFFLINE
from runs import Runs


def save(runs: Runs, method: str, **kwargs: Any) -> Path:
    module, data = runs.make(method, **kwargs)
    trainer = runs.trainer(max_steps=2)
    trainer.fit(module, data)
    path = runs.folder / f"{method}.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("method", OFFLINE)
def test_adapters_heads_and_their_optimizer_and_no_frozen_weight(
    runs: Runs, method: str, quantization: str | None
) -> None:
    found = torch.load(save(runs, method, quantization=quantization), weights_only=True)
    role = METHODS[method].module.trained[0]
    head = [f"backbone.heads.{role}.weight"] if method == "reward" else []
    rest = sorted(set(found["state_dict"]) - set(head))
    assert len(rest) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert all(f".lora_A.{role}." in key or f".lora_B.{role}." in key for key in rest)
    assert all(t.dtype == torch.float32 for t in found["state_dict"].values())
    state = found["optimizer_states"][0]["state"]
    assert len(state) == len(found["state_dict"])
    assert all(s["exp_avg"].abs().sum() > 0 for s in state.values())


@pytest.mark.parametrize("method", OFFLINE)
def test_loads_again_from_the_file_alone(runs: Runs, method: str) -> None:
    path = save(runs, method)
    module = METHODS[method].module.load_from_checkpoint(path)
    assert type(module) is METHODS[method].module
    assert module.backbone.lora == LoRA(r=4)
    state = torch.load(path, weights_only=True)["state_dict"]
    for key, tensor in module.state_dict().items():
        if key in state:
            assert torch.equal(tensor, state[key])


def resume(runs: Runs, module: AlignmentModule, path: Path) -> None:
    _, data = runs.make("reward" if isinstance(module, RewardModule) else "dpo")
    runs.trainer(max_steps=4).fit(module, data, ckpt_path=str(path))


def test_a_checkpoint_of_another_module_is_refused(runs: Runs) -> None:
    path = save(runs, "dpo")
    with pytest.raises(
        ValueError, match=r"is a checkpoint of DPOModule, not of RewardModule: .*backbone\.adapters"
    ):
        resume(runs, RewardModule(runs.backbone()), path)


def test_a_checkpoint_of_another_rank_is_refused(runs: Runs) -> None:
    path = save(runs, "dpo")
    with pytest.raises(
        ValueError, match=r"another base model or LoRA rank: .*\(4, \d+\) there and \(8, \d+\)"
    ):
        resume(runs, DPOModule(runs.backbone(lora=LoRA(r=8))), path)


def test_the_reference_copied_from_an_sft_adapter_travels_along(runs: Runs) -> None:
    """After SFT and DPO in one process, a resume in another finds the SFT adapter."""
    backbone = runs.backbone()
    sft, demonstrations = runs.make("sft")
    sft = SFTModule(backbone, lr=1e-2)
    runs.trainer().fit(sft, demonstrations)
    dpo, (_, data) = DPOModule(backbone), runs.make("dpo")
    trainer = runs.trainer(max_steps=2)
    trainer.fit(dpo, data)
    assert backbone.roles["reference"].adapter
    path = runs.folder / "dpo.ckpt"
    trainer.save_checkpoint(path)

    fresh = DPOModule(runs.backbone())
    _, data = runs.make("dpo")
    trainer = runs.trainer(max_steps=3)
    trainer.fit(fresh, data, ckpt_path=str(path))
    wanted = backbone.role_parameters("reference")
    found = fresh.backbone.role_parameters("reference")
    assert len(wanted) == len(found) > 0
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert not any(p.requires_grad for p in found)


def test_a_role_folder_starts_the_next_method(runs: Runs) -> None:
    """DPO from an SFT folder: the reference is the SFT adapter, the first loss ln 2."""
    sft, data = runs.make("sft")
    runs.trainer().fit(sft, data)
    folder = sft.backbone.save_role("policy", runs.folder / "policy")
    dpo = DPOModule(Backbone(runs.base, dtype="float32", adapters={"policy": str(folder)}), lr=1e-9)
    _, data = runs.make("dpo")
    trainer = runs.trainer(max_steps=1)
    trainer.fit(dpo, data)
    assert dpo.backbone.roles["reference"].adapter
    assert trainer.logged_metrics["train/loss"].item() == pytest.approx(0.6931472, abs=1e-6)
    assert trainer.logged_metrics["train/rewards/chosen"] == 0
