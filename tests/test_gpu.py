"""What only a GPU can show. Written for real; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf import Backbone, DPOModule, LoRA, PreferenceData, RewardModule
from lightning_rlhf.batches import to_device
from lightning_rlhf.models.sampler import HFSampler, Sample, Sampling
from lightning_rlhf.models.vllm_sampler import VLLMSampler
from lightning_rlhf.quickstart.model import word_tokenizer
from support import NUMBERS, number_pairs, pad_rows

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
    """The same fp32 forward on both devices, 4-bit weights quantized on each."""
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


# ---- rollouts ----

PROMPTS = [[5, 9, 40, 41, 17, 3], [8], [33, 12, 33], [7, 7]]


def rolling_backbone(base: str, quantization: Any = None, dtype: Any = "bfloat16") -> Backbone:
    """A policy whose adapter does something."""
    backbone = Backbone(base, quantization, LoRA(r=8), dtype=dtype).load("cuda")
    backbone.add_role("policy")
    with torch.no_grad():
        for i, p in enumerate(backbone.role_parameters("policy")):
            p.copy_(torch.sin(torch.arange(p.numel()) + i).view_as(p) * 0.1)
    return backbone


def mean_gap(backbone: Backbone, samples: list[Sample], prompts: list[list[int]]) -> float:
    """Of the sampler's log-probs to those of a teacher-forced forward."""
    rows = [
        (p + s.ids, [False] * len(p) + [True] * len(s.ids))
        for p, s in zip(prompts, samples, strict=True)
    ]
    batch = to_device(pad_rows(rows, 0), backbone.base.device)
    with torch.no_grad():
        said = backbone.logprobs(batch, "policy").cpu()
    own = torch.tensor([lp for s in samples for lp in s.logprobs])
    return float((own - said).abs().mean())


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_rollouts_say_what_a_forward_says(tiny_base: str, quantization: Any) -> None:
    backbone = rolling_backbone(tiny_base, quantization)
    sampling = Sampling(max_new_tokens=16, num_samples=4)
    samples = HFSampler().sample(backbone, "policy", PROMPTS, sampling)
    assert mean_gap(backbone, samples, [p for p in PROMPTS for _ in range(4)]) < 0.05


def test_greedy_rollouts_on_gpu_and_cpu_agree(tiny_base: str) -> None:
    backbone = rolling_backbone(tiny_base, dtype="float32")
    sampling = Sampling(max_new_tokens=16, temperature=0.0)
    there = HFSampler().sample(backbone, "policy", PROMPTS, sampling)
    backbone.to("cpu")
    here = HFSampler().sample(backbone, "policy", PROMPTS, sampling)
    assert [s.ids for s in there] == [s.ids for s in here]


def test_vllm_samples_the_trained_role_and_follows_its_changes(tmp_path: Any) -> None:
    """A base with heads of 64, which vLLM's kernels want, in a process that also trains."""
    pytest.importorskip("vllm")
    tokenizer = word_tokenizer(NUMBERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, initializer_range=0.1, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = rolling_backbone(str(tmp_path))
    sampler = VLLMSampler(gpu_memory=0.2, options={"enforce_eager": True})
    sampling = Sampling(max_new_tokens=16, num_samples=4, temperature=1.0)
    prompts = [p for p in PROMPTS for _ in range(4)]
    for _ in range(2):
        samples = sampler.sample(backbone, "policy", PROMPTS, sampling)
        assert len(samples) == len(prompts)
        assert mean_gap(backbone, samples, prompts) < 0.1
        with torch.no_grad():
            backbone.role_parameters("policy")[-1].add_(0.1)
