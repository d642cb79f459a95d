"""A merged adapter gives the role's numbers; afterwards the base has its own bits again."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA, layers

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def bits(backbone) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in backbone.base.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_gives_the_role_and_gives_back_the_bits(build, tokens, dtype):
    backbone = build("policy", "reward", dtype=dtype)
    before = bits(backbone)
    parameters = dict(backbone.base.named_parameters())
    with torch.no_grad():
        expected = {r: backbone.logprobs(tokens, r) for r in ("policy", "reward")}
        with pytest.raises(KeyError, match="inside"), backbone.merged("policy"):
            raise KeyError("inside")
        with backbone.role("reward"):
            with backbone.merged("policy"), backbone.merged("policy"):
                changed = [n for n, p in bits(backbone).items() if not torch.equal(p, before[n])]
                assert len(changed) == 3 * 7
                merged = backbone.logprobs(tokens, "policy")
                with pytest.raises(RuntimeError, match="'policy'.*'reward'"):
                    backbone.logprobs(tokens, "reward")
                assert torch.equal(backbone.logprobs(tokens, "policy"), merged)
            assert backbone.switch.active == "reward"
        tolerance = 1e-4 if dtype == "float32" else 0.3
        assert (merged - expected["policy"]).abs().max() < tolerance
        for role, said in expected.items():
            assert torch.equal(backbone.logprobs(tokens, role), said)
    after = dict(backbone.base.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[n] is p and torch.equal(p, before[n]) for n, p in parameters.items())


def test_a_merge_that_fails_half_way_gives_back_the_bits(build, monkeypatch):
    backbone = build("policy")
    before = bits(backbone)
    last = layers(backbone.base)[-1]
    monkeypatch.setattr(last, "get_delta_weight", lambda role: torch.zeros(1, 2, 3))
    with pytest.raises(RuntimeError), backbone.merged("policy"):
        pass
    assert all(torch.equal(p, before[n]) for n, p in bits(backbone).items())


def test_a_merge_leaves_tied_weights_alone(write_model, model_ids):
    folder = write_model(
        LlamaConfig(**SHAPE, tie_word_embeddings=True, **model_ids), LlamaForCausalLM
    )
    lora = LoRA(r=4, target_modules=["lm_head"])
    backbone = Backbone(folder, lora=lora, dtype="float32").load()
    backbone.add_role("policy")
    with torch.no_grad():
        for p in backbone.role_parameters("policy"):
            p.fill_(0.1)
    table = backbone.base.get_input_embeddings().weight.clone()
    with backbone.merged("policy"):
        assert torch.equal(backbone.base.get_input_embeddings().weight, table)
        assert not torch.equal(backbone.base.lm_head.get_base_layer().weight, table)
    assert backbone.base.lm_head.get_base_layer().weight is (
        backbone.base.get_input_embeddings().weight
    )
