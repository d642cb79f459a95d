"""Offloading to host memory changes no number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_rlhf.models import offload
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.offload import HostEmbedding


def step(backbone, tokens, gradients):
    loss = backbone.logprobs(tokens, "policy").sum() + backbone.scores(tokens, "policy").sum()
    loss.backward()
    return loss.detach(), gradients(backbone, "policy")


def test_an_embedding_on_the_host_changes_no_number(build, tokens, gradients):
    plain = build("policy", heads=("policy",))
    host = build("policy", heads=("policy",), offload=["embedding"])
    table = host.base.get_input_embeddings()
    assert isinstance(table, HostEmbedding)
    assert not any("embed_tokens" in name for name, _ in host.named_parameters())
    assert not any("embed_tokens" in name for name in host.state_dict())
    host.to(torch.float64).to(torch.float32)
    assert table.weight.dtype == torch.float32, "nothing that moves a module touches the table"
    (loss, found), (expected, wanted) = (step(b, tokens, gradients) for b in (host, plain))
    assert torch.equal(loss, expected)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    host.add_role("reference", trainable=False)
    assert host.forward_weights("reference")["embedding"] is table.weight
    with pytest.raises(ValueError, match="merging needs the embedding table"):
        host.save_merged("reference", "nowhere")


def test_a_table_the_head_shares_stays(write_model, model_ids):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True, **model_ids,
    )  # fmt: skip
    folder = write_model(config, Qwen2ForCausalLM)
    with pytest.raises(ValueError, match="the head of this Qwen2ForCausalLM shares the table"):
        Backbone(folder, offload=["embedding"]).load()


def test_of_checkpointed_layers_only_the_inputs_travel(build, tokens, gradients, monkeypatch):
    parked = []

    def park(tensor):
        away = tensor.is_floating_point() and not isinstance(tensor, nn.Parameter)
        if away and tensor.dim() == 3:
            parked.append(tensor.shape)
            return tensor.device, tensor.clone()
        return tensor

    options = {"heads": ("policy",), "gradient_checkpointing": True}
    plain = build("policy", **options)
    host = build("policy", **options, offload=["activations"])
    expected, wanted = step(plain, tokens, gradients)
    monkeypatch.setattr(offload, "_park", park)
    loss, found = step(host, tokens, gradients)
    assert torch.equal(loss, expected)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    layers = host.base.config.num_hidden_layers
    hidden = (*tokens.input_ids.shape, 64)
    assert [tuple(s) for s in parked].count(hidden) >= 2 * layers, "two forwards of every layer"
    assert len(parked) <= 2 * (layers + 6), "and little else: the norm behind them"


def test_weights_and_small_tensors_stay_on_the_card():
    big = torch.empty(1024, 1024, device="meta")
    assert offload._park(nn.Parameter(big)).is_meta
    assert isinstance(offload._park(big.long()), torch.Tensor)
    assert isinstance(offload._park(big[:10].clone()), torch.Tensor)
    assert isinstance(offload._park(torch.ones(1024, 1024)), torch.Tensor), "on the host already"
    back = offload._fetch(offload._park(big))
    assert back.shape == big.shape and back.is_meta


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"offload": ["activations"]}, "needs gradient_checkpointing=True"),
        ({"offload": ["embedding"], "lora": None}, "give lora=LoRA"),
        ({"head_tile": 0}, "head_tile is rows of logits"),
    ],
)
def test_options_that_do_not_go_together(options, reason):
    with pytest.raises(ValueError, match=reason):
        Backbone("a/b", **{"lora": LoRA(), **options})


def test_a_tile_of_one_row_changes_no_number(build, tokens, gradients):
    one, plain = build("policy", head_tile=1), build("policy")
    for backbone in (one, plain):
        backbone.add_role("policy", head=True)
    assert one.runner_of("policy").tile == 1
    torch.testing.assert_close(one.logprobs(tokens, "policy"), plain.logprobs(tokens, "policy"))
