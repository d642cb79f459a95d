"""Roles: switching between adapters on one base, forward and backward."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_rlhf.models import loading, lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA


def active(backbone) -> set:
    """List the adapters that the layers apply."""
    return {
        None if layer.disable_adapters else tuple(layer.active_adapters)
        for layer in lora.layers(backbone.base)
    }


@pytest.fixture
def backbone(build):
    backbone = build("policy", "reward", "critic", heads=("reward", "critic"))
    backbone.add_role("reference", trainable=False)
    return backbone


def test_roles_nest_and_restore(backbone):
    with backbone.role("policy"):
        assert active(backbone) == {("policy",)}
        with backbone.role("reference"):
            assert active(backbone) == {None}
            with backbone.role("critic"):
                assert active(backbone) == {("critic",)}
            assert active(backbone) == {None}
        assert active(backbone) == {("policy",)}
        with backbone.role("policy"), backbone.role("reward"):
            assert active(backbone) == {("reward",)}
        assert active(backbone) == {("policy",)}


def test_role_is_restored_after_an_exception(backbone):
    def fail():
        with backbone.role("reward"), backbone.role("reference"):
            raise ZeroDivisionError

    with backbone.role("policy"):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert active(backbone) == {("policy",)}
    assert backbone.switch.active is None


def test_one_context_may_be_entered_again(backbone):
    context = backbone.role("reward")
    for outer in ("policy", "critic"):
        with backbone.role(outer):
            with context, context:
                assert active(backbone) == {("reward",)}
            assert active(backbone) == {(outer,)}


def test_unknown_role_lists_the_known_ones(backbone):
    with pytest.raises(KeyError, match=r"no role 'judge'.*'critic', 'policy', 'reference'"):
        backbone.role("judge")


def test_a_role_added_inside_another_leaves_it_active(backbone):
    with backbone.role("policy"):
        backbone.add_role("late")
        assert active(backbone) == {("policy",)}
    with backbone.role("reference"):
        backbone.add_role("later")
        assert active(backbone) == {None}


def test_reference_without_an_adapter_is_the_bare_base(backbone, base, tokens):
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        hidden = plain.model(
            tokens.input_ids,
            attention_mask=tokens.attention_mask.long(),
            position_ids=tokens.position_ids,
            use_cache=False,
        ).last_hidden_state
        expected = plain.lm_head(hidden.flatten(0, 1)[tokens.predictor_index])
        backbone.logits(tokens, "policy")
        assert torch.equal(backbone.logits(tokens, "reference"), expected)


def test_roles_do_not_touch_one_another(backbone, build, tokens):
    """Each role computes what it computes on a backbone of its own."""
    with torch.no_grad():
        together = {r: backbone.logits(tokens, r) for r in ("policy", "reward", "critic")}
        assert torch.equal(backbone.logits(tokens, "policy"), together["policy"])
        alone = build("policy")
        assert torch.equal(alone.logits(tokens, "policy"), together["policy"])
    assert (together["reward"] - together["critic"]).abs().max() > 0.1


def test_roles_may_adapt_different_layers(build, tokens, tmp_path):
    narrow = build("policy", lora=LoRA(r=2, alpha=4, target_modules=["q_proj", "v_proj"]))
    folder = str(narrow.save_role("policy", tmp_path / "narrow"))
    backbone = build("reward", adapters={"policy": folder})
    with torch.no_grad():
        expected = narrow.logits(tokens, "policy")
        assert torch.equal(backbone.logits(tokens, "policy"), expected)
        backbone.logits(tokens, "reward")
        assert torch.equal(backbone.logits(tokens, "policy"), expected)


def test_trained_roles_stay_trained_however_often_roles_switch(backbone, tokens):
    """PEFT's set_adapter freezes every other adapter: an optimizer would step frozen parameters."""
    roles = ("policy", "reward", "critic", "reference")
    for trained in [("policy",), ("policy", "critic"), (), ("reward",)]:
        backbone.train_roles(*trained)
        identity = {r: [id(p) for p in backbone.role_parameters(r)] for r in roles}
        for role in (*roles, *reversed(roles), "policy", "reference", "critic"):
            with backbone.role(role):
                assert wrong_requires_grad(backbone, trained) == []
            assert wrong_requires_grad(backbone, trained) == []
        assert identity == {r: [id(p) for p in backbone.role_parameters(r)] for r in roles}


def wrong_requires_grad(backbone, trained) -> list[str]:
    right = {id(p) for role in trained for p in backbone.role_parameters(role)}
    return [n for n, p in backbone.named_parameters() if p.requires_grad != (id(p) in right)]


def test_peft_alone_would_freeze_the_other_roles(backbone):
    backbone.train_roles("policy", "critic")
    lora.activate(lora.layers(backbone.base), "reward")
    assert wrong_requires_grad(backbone, ("policy", "critic")) != []


def test_a_new_role_leaves_trained_roles_alone(backbone):
    backbone.train_roles("policy")
    backbone.add_role("judge", trainable=False, init_from="reward", head=True)
    assert wrong_requires_grad(backbone, ("policy",)) == []
    assert backbone.roles["judge"].adapter


# ---- one backward through two roles ----


def two_roles(build, checkpointing):
    backbone = build("policy", "reward", heads=("reward",), gradient_checkpointing=checkpointing)
    backbone.add_role("reference", trainable=False)
    return backbone


def worst(mine, theirs) -> float:
    """The largest gap between two sets of gradients, as a share of the largest gradient."""
    assert mine.keys() == theirs.keys()
    scale = max(g.abs().max() for g in theirs.values())
    return float(max((mine[n] - theirs[n]).abs().max() for n in theirs) / scale)


@pytest.fixture
def grads_of_both():
    """Policy, reference and reward forward, then one backward through two roles."""

    def both(backbone, tokens):
        policy = backbone.logits(tokens, "policy").logsumexp(-1).sum()
        with torch.no_grad():
            reference = backbone.logits(tokens, "reference").logsumexp(-1).sum()
        scores = backbone.scores(tokens, "reward").sum()
        ((policy - reference) ** 2 + scores).backward()
        found = {}
        for role in ("policy", "reward"):
            for name, parameter in lora.parameters(backbone.base, role).items():
                assert parameter.grad is not None, name
                found[name] = parameter.grad.clone()
        backbone.zero_grad()
        return found

    return both


def test_recompute_runs_as_the_role_of_the_forward(build, tokens, grads_of_both):
    plain = grads_of_both(two_roles(build, checkpointing=False), tokens)
    guarded = grads_of_both(two_roles(build, checkpointing=True), tokens)
    assert worst(guarded, plain) < 1e-6


def test_recompute_without_the_context_is_silently_wrong(build, tokens, grads_of_both):
    plain = grads_of_both(two_roles(build, checkpointing=False), tokens)
    backbone = two_roles(build, checkpointing=True)
    backbone.base.activation_checkpointing_enable(
        {"use_reentrant": False, "context_fn": lambda: (nullcontext(), nullcontext())}
    )
    assert worst(grads_of_both(backbone, tokens), plain) > 1e-2


def test_backward_inside_another_role_recomputes_rightly(build, tokens, gradients):
    grads = {}
    for checkpointing in (False, True):
        backbone = two_roles(build, checkpointing)
        loss = backbone.logits(tokens, "policy").logsumexp(-1).sum()
        with backbone.role("reference"):
            loss.backward()
            assert active(backbone) == {None}
        grads[checkpointing] = gradients(backbone, "policy")
    assert worst(grads[True], grads[False]) < 1e-6


def test_adapters_take_bf16_inputs_as_they_are_under_autocast(build, tokens):
    """PEFT's detour through fp32 changes no number and keeps a copy of every input."""
    backbone = build("policy", dtype="bfloat16")

    def run():
        backbone.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = backbone.logprobs(tokens, "policy").sum()
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in backbone.role_parameters("policy")]

    def run_and_weigh():
        kept = {}  # storages, each once, held so that no address is used twice

        def saved(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            return *run(), sum(t.untyped_storage().nbytes() for t in kept.values())

    loss, gradients, ours = run_and_weigh()
    backbone.switch.follow_autocast = lambda running: None
    expected, others, pefts = run_and_weigh()
    assert torch.equal(loss, expected)
    assert all(map(torch.equal, gradients, others))
    assert ours < 0.95 * pefts
    del backbone.switch.follow_autocast
    run()
    backbone.logprobs(tokens, "policy").sum().backward()  # and outside of autocast they are cast


def test_what_does_not_fit_is_said_before_the_base_is_loaded(
    base, other_base, build, tmp_path, monkeypatch
):
    """Loading may take minutes; targets and adapters are tried on a model without data."""
    folder = build("policy").save_role("policy", tmp_path / "policy")

    def loaded(*_, **__):
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(loading, "load_causal_lm", loaded)
    with pytest.raises(ValueError, match="holds an adapter of another base model"):
        Backbone(other_base, adapters={"policy": str(folder)}).load()
    with pytest.raises(ValueError, match=r"\['v_porj'\] name no layer .* did you mean 'v_proj'\?"):
        Backbone(base, lora=LoRA(target_modules=["q_proj", "v_porj"])).load()
    with pytest.raises(AssertionError, match="the base was loaded"):
        Backbone(base, lora=LoRA(target_modules=r".*\.q_proj")).load()
