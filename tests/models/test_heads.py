"""Scalar heads in fp32, and each family's output head."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers as hf
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lightning_rlhf.functional.logprobs import token_statistics
from lightning_rlhf.models.heads import ScalarHead, head_is_plain, head_of

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
FAMILIES = {
    "Llama": {},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16},
    "Mistral": {},
    "Gemma2": {"head_dim": 16, "final_logit_softcapping": 2.0},
    "Cohere": {"logit_scale": 0.0625},
    "Granite": {"logits_scaling": 8.0},
    "SmolLM3": {},
    "Phi3": {},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64},
}
PLAIN_PROJECTION_IS_WRONG = {"Gemma2", "Cohere", "Granite"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, write_model, model_ids):
    name, own = request.param, FAMILIES[request.param]
    small = {} if name == "GPT2" else SMALL
    config = getattr(hf, f"{name}Config")(**{**small, **own, **model_ids})
    kind = getattr(hf, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    return name, write_model(config, kind)


def test_head_logits_are_the_models_own(family, tokens):
    name, folder = family
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        mask = tokens.attention_mask.long()
        whole = model(tokens.input_ids, attention_mask=mask, use_cache=False).logits
        hidden = model.get_decoder()(
            input_ids=tokens.input_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        assert (head_of(model).logits(hidden) - whole).abs().max() < 1e-5
        bare = model.get_output_embeddings()(hidden)
    assert head_is_plain(model)
    off = float((bare - whole).abs().max() / whole.abs().max())
    assert (off > 0.1) == (name in PLAIN_PROJECTION_IS_WRONG)


def test_backbone_logits_are_the_models_own(family, build, tokens):
    name, folder = family
    backbone = build("policy", name=folder)
    assert backbone._runner.plain_head, name
    with torch.no_grad():
        short = backbone.logits(tokens, "policy")
        own = backbone.logprobs(tokens, "policy")
        backbone._runner = backbone._runner._replace(plain_head=False)
        assert (backbone.logprobs(tokens, "policy") - own).abs().max() < 1e-5
        assert (backbone.logits(tokens, "policy") - short).abs().max() < 1e-5


class OddConfig(LlamaConfig):
    model_type = "lightning_rlhf_odd"


class OddForCausalLM(LlamaForCausalLM):
    """A model that adds a term after the head."""

    config_class = OddConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + torch.linspace(0, 3, out.logits.shape[-1])
        return out


@pytest.fixture(scope="module")
def odd(write_model, model_ids):
    AutoConfig.register(OddConfig.model_type, OddConfig, exist_ok=True)
    AutoModelForCausalLM.register(OddConfig, OddForCausalLM, exist_ok=True)
    return write_model(OddConfig(**{**SMALL, **model_ids}), OddForCausalLM)


def test_head_of_its_own_kind_falls_back_to_the_models_logits(odd, build, tokens, caplog):
    caplog.set_level(logging.WARNING)
    backbone = build("policy", name=odd)
    said = [r for r in caplog.records if r.name == "lightning_rlhf.models.heads"]
    assert [r.getMessage() for r in said] == [
        "OddForCausalLM has an output head of its own kind: "
        "log-probs take the logits of every token"
    ]
    backbone.add_role("reference", trainable=False)
    model = AutoModelForCausalLM.from_pretrained(odd, dtype=torch.float32)
    with torch.no_grad():
        mask = tokens.attention_mask.long()
        whole = model(tokens.input_ids, attention_mask=mask, use_cache=False).logits
        expected = whole.flatten(0, 1)[tokens.predictor_index]
        assert (backbone.logits(tokens, "reference") - expected).abs().max() < 1e-5
        assert (backbone.logits(tokens, "policy") - expected).abs().max() > 0.1
        found = backbone.statistics(tokens, "reference")
        assert torch.equal(found.logprob, token_statistics(expected, tokens.target_ids).logprob)
        backbone._runner = backbone._runner._replace(plain_head=True)
        assert (backbone.logits(tokens, "reference") - expected).abs().max() > 1
    backbone._runner = backbone._runner._replace(plain_head=False)
    backbone.logprobs(tokens, "policy").sum().backward()
    assert all(p.grad is not None for p in backbone.role_parameters("policy"))


def test_scalar_head_is_an_fp32_dot_product():
    torch.manual_seed(0)
    head = ScalarHead(400)
    assert head.weight.dtype == torch.float32
    assert abs(head.weight.std() * 401**0.5 - 1) < 0.1
    hidden = torch.randn(2, 3, 400).bfloat16()
    expected = torch.einsum("bth,h->bt", hidden.double(), head.weight[0].double())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = head(hidden)
        assert scores.dtype == torch.float32
        assert scores.shape == (2, 3)
        assert (scores - expected).abs().max() < 1e-5
