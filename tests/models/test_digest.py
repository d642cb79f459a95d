"""A digest of weights changes with any of them, and with nothing else."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.models.lora import LoRA


def digest(backbone: Backbone) -> bytes:
    return weights_digest(backbone.forward_weights("reference"))


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_digest_is_the_same_after_a_reload(build, tmp_path, quantization):
    folder = str(build("policy").save_role("policy", tmp_path))
    options = {"adapters": {"reference": folder}, "quantization": quantization}
    first, second = (digest(build(**options)) for _ in range(2))
    assert first == second
    assert len(first) == 16


def test_digest_tells_bases_precisions_and_adapters_apart(build, base, tmp_path):
    folder = str(build("policy").save_role("policy", tmp_path))
    reference = {"reference": folder}
    found = {
        digest(b)
        for b in (
            build(),
            build(dtype="bfloat16"),
            build(quantization="nf4"),
            build(adapters=reference),
            build(quantization="nf4", adapters=reference),
        )
    }
    assert len(found) == 5


def test_digest_does_not_care_about_other_roles(build):
    backbone = build()
    before = digest(backbone)
    backbone.add_role("policy")
    backbone.add_role("reward", head=True)
    backbone.add_role("reference", trainable=False)
    assert digest(backbone) == before


def test_one_step_on_any_one_tensor_changes_the_digest(build, tokens):
    """The embedding too, of which a step moves a few rows only."""
    backbone = build(lora=None)
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    weights = backbone.forward_weights("reference")
    before = weights_digest(weights)
    backbone.logits(tokens, "policy").logsumexp(-1).sum().backward()
    for name, trained in backbone.base.named_parameters():
        assert trained.grad is not None, name
        kept = weights[name].detach().clone()
        with torch.no_grad():
            weights[name].grad = trained.grad
            torch.optim.AdamW([weights[name]], lr=1e-5, weight_decay=0.0).step()
            assert weights_digest(weights) != before, name
            weights[name].copy_(kept)
    assert weights_digest(weights) == before


def test_one_moved_entry_changes_the_digest(build):
    weights = build().forward_weights("reference")
    before = weights_digest(weights)
    embedding = weights["model.embed_tokens.weight"]
    for row in range(0, 96, 5):
        with torch.no_grad():
            kept = embedding[row, 13].item()
            embedding[row, 13] = kept + 1e-3
            assert weights_digest(weights) != before, row
            embedding[row, 13] = kept


def test_digest_sees_the_scale_of_four_bit_weights(build):
    """Weights twice as large have the same 4-bit codes: only their scales differ."""
    backbone = build(quantization="nf4", lora=LoRA(r=2))
    before = digest(backbone)
    state = backbone.base.model.layers[0].mlp.up_proj.weight.quant_state
    state.absmax = (state.absmax + 1).to(state.absmax.dtype)
    assert digest(backbone) != before
