"""What only a GPU can show. Written for real; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_rlhf import Backbone, DPOModule, LoRA, PreferenceData, RewardModule
from support import number_pairs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("method", [DPOModule, RewardModule])
def test_trains_under_bf16_mixed_with_checkpointing(
    tiny_base: str, method: Any, quantization: Any
) -> None:
    backbone = Backbone(
        tiny_base, quantization, LoRA(r=8), dtype="bfloat16", gradient_checkpointing=True
    )
    trainer = Trainer(
        accelerator="gpu", devices=1, precision="bf16-mixed", max_epochs=4, gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    module = method(backbone, lr=1e-2)
    trainer.fit(module, PreferenceData(number_pairs(200), val_fraction=0.2, batch_size=16))
    assert trainer.callback_metrics["val/rewards/accuracies"] > 0.75
    own = backbone.role_parameters(module.trained[0])
    assert {p.dtype for p in own} == {torch.float32}


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_gpu_and_cpu_agree(tiny_base: str, quantization: Any) -> None:
    """The same fp32 forward on both devices, 4-bit weights quantised on each."""
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        module = RewardModule(Backbone(tiny_base, quantization, LoRA(r=4), dtype="float32"))
        module.backbone.load(device)
        module.add_roles()
        with torch.no_grad():
            for i, p in enumerate(module.backbone.role_parameters("reward")):
                p.copy_(torch.sin(torch.arange(p.numel()) + i).view_as(p) * 0.1)
        data = PreferenceData(
            number_pairs(8), val_fraction=0, tokenizer=module.backbone.tokenizer, batch_size=8
        )
        data.setup()
        batch = module.transfer_batch_to_device(
            next(iter(data.train_dataloader())), torch.device(device), 0
        )
        losses.append(module.objective(batch).value.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
