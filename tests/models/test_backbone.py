"""Backbone: loading, precision, padding, checkpointing, training the whole model."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_rlhf.models import loading, lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.heads import ScalarHead
from lightning_rlhf.models.lora import LoRA

# ---- a description until loaded ----


def test_constructing_reads_nothing():
    backbone = Backbone("no/such-model", adapters={"policy": "no/such/folder"})
    assert not backbone.is_loaded
    assert list(backbone.parameters()) == []
    with pytest.raises(RuntimeError, match=r"call backbone\.load\(\)"):
        backbone.base  # noqa: B018


def test_tokenizer_comes_before_the_model(base):
    backbone = Backbone(base)
    assert backbone.tokenizer("w0 w1").input_ids == [4, 5]
    assert not backbone.is_loaded


def test_load_builds_once(base):
    backbone = Backbone(base, dtype="float32")
    model = backbone.load().base
    assert backbone.load().base is model
    assert backbone.hidden_size == 64
    assert not any(p.requires_grad for p in backbone.parameters())


def test_impossible_combinations_are_refused(base):
    with pytest.raises(ValueError, match="4-bit weights cannot be trained"):
        Backbone(base, quantization="nf4", lora=None)
    with pytest.raises(ValueError, match=r"\['policy'\] need LoRA"):
        Backbone(base, lora=None, adapters={"policy": "runs/sft"})


# ---- adapters ----


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_all_linear_adapts_every_layer_but_the_output_head(build, quantization):
    backbone = build("policy", "reward", heads=("reward",), quantization=quantization)
    adapted = {
        name.rsplit(".", 1)[-1]
        for name, module in backbone.named_modules()
        if isinstance(module, lora.LoraLayer)
    }
    assert adapted == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert len(lora.layers(backbone.base)) == 3 * 7
    assert type(backbone.base.lm_head) is nn.Linear
    assert type(backbone.heads["reward"]) is ScalarHead


def test_unknown_target_module_is_answered_with_the_known_ones(build):
    with pytest.raises(ValueError, match=r"name no layer of this model.*'q_proj'.*all-linear"):
        build("policy", lora=LoRA(target_modules=["query_key_value"]))


def test_fresh_role_is_the_base_and_a_copy_is_its_source(build, tokens):
    backbone = build("policy")
    backbone.add_role("fresh")
    backbone.add_role("bare", trainable=False)
    backbone.add_role("copy", init_from="policy")
    with torch.no_grad():
        fresh, bare, copy, policy = (
            backbone.logits(tokens, role) for role in ("fresh", "bare", "copy", "policy")
        )
    assert torch.equal(fresh, bare)
    assert torch.equal(copy, policy)
    assert (policy - bare).abs().max() > 0.1
    assert not backbone.roles["bare"].adapter
    for mine, theirs in zip(
        backbone.role_parameters("copy"), backbone.role_parameters("policy"), strict=True
    ):
        assert mine is not theirs


def test_adding_a_role_again_keeps_its_weights(build):
    backbone = build("policy", heads=("policy",))
    before = [p.clone() for p in backbone.role_parameters("policy")]
    kept = backbone.role_parameters("policy")
    backbone.add_role("policy", head=True, init_from="policy")
    assert all(a is b for a, b in zip(kept, backbone.role_parameters("policy"), strict=True))
    assert all(map(torch.equal, before, kept))


def test_copy_role_moves_a_reference_that_was_the_bare_base(build, tokens):
    backbone = build("policy")
    backbone.add_role("reference", trainable=False)
    backbone.copy_role("policy", "reference")
    with torch.no_grad():
        assert torch.equal(backbone.logits(tokens, "reference"), backbone.logits(tokens, "policy"))
        for parameter in backbone.role_parameters("policy"):
            parameter.add_(0.05)
        moved = (backbone.logits(tokens, "reference") - backbone.logits(tokens, "policy")).abs()
    assert moved.max() > 0.1, "the reference is a copy, not the policy itself"
    assert not any(p.requires_grad for p in backbone.role_parameters("reference"))


def test_keeps_exactly_adapters_and_heads(build):
    backbone = build("policy", "reward", heads=("reward",))
    kept = {key for key in backbone.state_dict() if backbone.is_saved(key)}
    names = dict(backbone.named_parameters())
    own = [*backbone.role_parameters("policy"), *backbone.role_parameters("reward")]
    assert kept == {name for name, p in names.items() if any(p is q for q in own)}
    assert len(kept) == 2 * 2 * 3 * 7 + 1
    backbone.requires_grad_(False)  # PEFT flips it as it pleases: the choice goes by name
    assert kept == {key for key in backbone.state_dict() if backbone.is_saved(key)}


# ---- precision ----


@pytest.mark.parametrize(
    ("quantization", "dtype"), [(None, "bfloat16"), ("nf4", "bfloat16"), ("nf4", "float32")]
)
def test_adapters_and_heads_are_fp32_on_any_base(build, tokens, quantization, dtype):
    backbone = build("policy", "reward", heads=("reward",), quantization=quantization, dtype=dtype)
    backbone.add_role("critic", init_from="reward", head=True)
    for role in ("policy", "reward", "critic"):
        assert {p.dtype for p in backbone.role_parameters(role)} == {torch.float32}
    assert backbone.base.lm_head.weight.dtype == getattr(torch, dtype)
    scores = backbone.scores(tokens, "reward")
    assert scores.dtype == torch.float32
    (scores.sum() + backbone.logits(tokens, "policy").float().logsumexp(-1).sum()).backward()
    for role in ("policy", "reward"):
        assert {p.grad.dtype for p in backbone.role_parameters(role)} == {torch.float32}


def test_head_moves_under_bf16_autocast(build, tokens):
    """At lr 1e-6 every entry of the fp32 head moves; the same head in bf16 would stay."""
    backbone = build("reward", heads=("reward",), dtype="bfloat16")
    head = backbone.head("reward").weight
    in_bf16 = nn.Parameter(head.detach().bfloat16())
    before, before_bf16 = head.detach().clone(), in_bf16.detach().clone()
    optimizer = torch.optim.AdamW([head, in_bf16], lr=1e-6, weight_decay=0.0)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = backbone.scores(tokens, "reward")
        assert scores.dtype == torch.float32
        scores.sum().backward()
        in_bf16.grad = head.grad.bfloat16()
        optimizer.step()
        optimizer.zero_grad()
    assert (head != before).all()
    assert (in_bf16 != before_bf16).float().mean() < 0.1


def test_scores_are_read_at_the_last_token(build, tokens, sequences):
    backbone = build("reward", heads=("reward",))
    with torch.no_grad():
        hidden = backbone.hidden_states(tokens, "reward")
        expected = [
            hidden[row, len(ids) - 1] @ backbone.head("reward").weight[0]
            for row, (ids, _) in enumerate(sequences)
        ]
        assert torch.allclose(backbone.scores(tokens, "reward"), torch.stack(expected), atol=1e-6)
    backbone.add_role("policy")
    with pytest.raises(KeyError, match=r"'policy' has no scalar head.*\['reward'\]"):
        backbone.scores(tokens, "policy")


# ---- padding ----


@pytest.fixture(scope="module")
def gpt2(write_model, model_ids):
    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=2, n_positions=48, initializer_range=0.1, **model_ids
    )
    return write_model(config, GPT2LMHeadModel)


@pytest.fixture(params=["llama", "gpt2"])
def two_roles(request, build, base, gpt2):
    """Rotary positions are relative; GPT-2's are absolute and reveal missing position_ids."""
    name = {"llama": base, "gpt2": gpt2}[request.param]
    return build("policy", "reward", heads=("reward",), name=name)


@pytest.mark.parametrize(("left", "right"), [(0, 5), (1, 0), (7, 0), (4, 6)])
def test_results_do_not_depend_on_padding(two_roles, sequences, padded, left, right):
    plain, other = padded(sequences), padded(sequences, left, right)
    assert torch.equal(plain.target_ids, other.input_ids.flatten()[other.predictor_index + 1])
    with torch.no_grad():
        logits, scores = two_roles.logits(plain, "policy"), two_roles.scores(plain, "reward")
        assert (two_roles.logits(other, "policy") - logits).abs().max() < 1e-5
        assert (two_roles.scores(other, "reward") - scores).abs().max() < 1e-5


def test_a_row_alone_and_in_a_batch_agree(two_roles, sequences, padded):
    with torch.no_grad():
        together = two_roles.logits(padded(sequences), "policy")
        alone = torch.cat([two_roles.logits(padded([s]), "policy") for s in sequences])
    assert (together - alone).abs().max() < 1e-5


def test_without_position_ids_left_padding_would_change_gpt2(build, gpt2, sequences, padded):
    backbone = build("policy", name=gpt2)
    plain, other = padded(sequences), padded(sequences, left=7)
    naive = other._replace(position_ids=torch.arange(other.input_ids.shape[1]).expand(3, -1))
    with torch.no_grad():
        gap = (backbone.logits(naive, "policy") - backbone.logits(plain, "policy")).abs().max()
    assert gap > 0.1


# ---- gradient checkpointing ----


@contextmanager
def counted(module: nn.Module):
    """Count the starts of a module's forwards, since a recompute may stop early."""
    calls = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def test_checkpointing_recomputes_in_train_mode(build, tokens, gradients):
    grads = {}
    for checkpointing in (False, True):
        backbone = build("policy", gradient_checkpointing=checkpointing)
        with counted(backbone.base.model.layers[1].self_attn) as calls:
            loss = backbone.logits(tokens, "policy").logsumexp(-1).sum()
            assert len(calls) == 1
            loss.backward()
        assert len(calls) == 1 + checkpointing
        grads[checkpointing] = gradients(backbone, "policy")
    for name, gradient in grads[False].items():
        assert (gradient - grads[True][name]).abs().max() < 1e-6 * (1 + gradient.abs().max()), name


def test_loading_leaves_train_mode(base):
    """transformers checkpoints in train mode only, and from_pretrained returns eval mode."""
    backbone = Backbone(base, dtype="float32", gradient_checkpointing=True).load()
    assert all(module.training for module in backbone.base.modules())


def test_old_name_of_checkpointing_serves_too(build, tokens, monkeypatch):
    """transformers 5.20 knows gradient_checkpointing_enable only."""
    from transformers import PreTrainedModel

    new = PreTrainedModel.activation_checkpointing_enable
    monkeypatch.delattr(PreTrainedModel, "activation_checkpointing_enable")
    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", new)
    monkeypatch.setattr(PreTrainedModel, "_is_overridden", lambda self, name: False)
    backbone = build("policy", gradient_checkpointing=True)
    with counted(backbone.base.model.layers[0].mlp) as calls:
        backbone.logits(tokens, "policy").sum().backward()
    assert len(calls) == 2


# ---- the whole model ----


def test_whole_model_trains_and_its_reference_stays(build, tokens):
    backbone = build(lora=None)
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    before = backbone.logits(tokens, "policy").detach()
    assert torch.equal(backbone.logits(tokens, "reference"), before)
    assert len(backbone.role_parameters("policy")) == len(list(backbone.base.parameters()))
    assert all(p.requires_grad for p in backbone.role_parameters("policy"))
    assert not any(p.requires_grad for p in backbone.role_parameters("reference"))
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    backbone.logits(tokens, "policy").logsumexp(-1).sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert (backbone.logits(tokens, "policy") - before).abs().max() > 0.01
        assert torch.equal(backbone.logits(tokens, "reference"), before)
        backbone.copy_role("policy", "reference")
        assert torch.equal(backbone.logits(tokens, "reference"), backbone.logits(tokens, "policy"))
    assert all(p.grad is None for p in backbone.role_parameters("reference"))
    assert all(backbone.is_saved(key) for key in backbone.state_dict())


def test_whole_model_is_itself_also_while_nothing_is_trained(build, tokens):
    """A role runs through its own weights, whichever roles receive gradients."""
    backbone = build(lora=None)
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy"):
            parameter.mul_(1.1)
        policy, reference = (backbone.logits(tokens, r) for r in ("policy", "reference"))
        backbone.train_roles()
        assert not any(p.requires_grad for p in backbone.parameters())
        assert torch.equal(backbone.logits(tokens, "policy"), policy)
        assert torch.equal(backbone.logits(tokens, "reference"), reference)
    backbone.train_roles("policy")
    assert all(p.requires_grad for p in backbone.base.parameters())
    assert not any(p.requires_grad for p in backbone.frozen.parameters())


def test_whole_model_holds_one_trained_role(build):
    backbone = build(lora=None)
    backbone.add_role("policy")
    with pytest.raises(ValueError, match=r"'policy' is it: give lora=LoRA\(\) to train 'critic'"):
        backbone.add_role("critic")


def test_whole_model_with_checkpointing_copies_the_model_only(build, tokens):
    """Its checkpoint function holds the role switch: copied along, copies would hold copies."""
    backbone = build(lora=None, gradient_checkpointing=True)
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    backbone.copy_role("policy", "reference")
    frozen = backbone.model_of("reference")
    context = frozen.model.layers[0]._gradient_checkpointing_func.keywords["context_fn"]
    assert context.__self__ is backbone.switch
    with counted(backbone.base.model.layers[0].mlp) as calls:
        backbone.logits(tokens, "policy").sum().backward()
    assert len(calls) == 2


def test_reference_weights_are_all_the_reference_depends_on(build):
    base = {name for name, _ in build().base.named_parameters()}
    backbone = build("policy", "reward")
    backbone.add_role("reference", trainable=False)
    assert backbone.forward_weights("reference").keys() == base
    backbone.copy_role("policy", "reference")
    more = backbone.forward_weights("reference").keys() - base
    assert len(more) == 2 * 3 * 7
    assert all(".reference." in name for name in more)


def test_a_copy_on_meta_has_the_description_and_the_roles(build, tmp_path):
    """A plan runs on it; the backbone itself is not touched, loaded or not."""
    folder = str(build("policy").save_role("policy", tmp_path))
    options = {"adapters": {"policy": folder, "reward": folder}, "head_tile": 3, "offload": []}
    given = Backbone(build().name_or_path, dtype="float32", lora=LoRA(r=2), **options)
    copied = given.on_meta(loading.skeleton(given.path))
    assert not given.is_loaded and not given.roles and given.adapters == options["adapters"]
    assert set(copied.roles) == {"policy", "reward"} and set(copied.heads) == {"reward"}
    assert copied.adapters == {} and copied.head_tile == 3 and copied.lora == given.lora
    assert copied.path == given.path and copied.dtype == "float32"
    assert all(p.is_meta for p in copied.base.parameters())
    given.load()
    kept = {name: p.clone() for name, p in given.named_parameters()}
    again = given.on_meta(loading.skeleton(given.path))
    assert all(p.is_meta for p in again.base.parameters())
    assert all(torch.equal(p, kept[name]) for name, p in given.named_parameters())
