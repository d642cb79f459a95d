"""Saved roles load in peft and transformers, and their folders load here."""

from __future__ import annotations

import json
import random

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lightning_rlhf.models import export, lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.loading import guard_4bit_on_cpu
from lightning_rlhf.models.lora import LoRA
from models.conftest import llama_config

TINY = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.1,
}


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def plain_model(folder, quantization=None):
    """Load the base with plain transformers."""
    config = {"quantization_config": nf4()} if quantization else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **config)
    guard_4bit_on_cpu(model)
    return model.eval()


@torch.no_grad()
def plain_logits(model, tokens):
    out = model(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask.long(),
        position_ids=tokens.position_ids,
        use_cache=False,
    )
    return out.logits.flatten(0, 1)[tokens.predictor_index]


@torch.no_grad()
def our_logits(backbone, tokens, role="policy"):
    return backbone.logits(tokens, role)


# ---- to peft and back ----


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_policy_loads_in_plain_peft(build, base, tokens, tmp_path, quantization):
    backbone = build("policy", "reward", heads=("reward",), quantization=quantization)
    folder = backbone.save_role("policy", tmp_path / "policy")
    theirs = PeftModel.from_pretrained(plain_model(base, quantization), str(folder)).eval()
    expected = our_logits(backbone, tokens)
    assert (plain_logits(theirs, tokens) - expected).abs().max() < 1e-4
    with theirs.disable_adapter():
        assert (plain_logits(theirs, tokens) - expected).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(folder).eos_token == backbone.tokenizer.eos_token


def test_policy_folder_is_peft_to_the_letter(build, base, tmp_path):
    """The same files and tensor names that peft writes for the same adapter."""
    ours = build("policy").save_role("policy", tmp_path / "ours")
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(plain_model(base), config).save_pretrained(str(tmp_path / "theirs"))
    mine = load_file(ours / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
    read = [
        json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("ours", "theirs")
    ]
    for written in read:
        written["target_modules"] = sorted(written["target_modules"])
    assert read[0] == read[1]
    assert read[0]["base_model_name_or_path"] == base


def test_adapter_written_by_peft_loads_here(build, base, tokens, tmp_path):
    torch.manual_seed(3)
    config = LoraConfig(r=8, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    theirs = get_peft_model(plain_model(base), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    theirs.save_pretrained(str(tmp_path))
    backbone = build(adapters={"policy": str(tmp_path)})
    expected = plain_logits(theirs.eval(), tokens)
    assert (our_logits(backbone, tokens) - expected).abs().max() < 1e-5
    assert all(p.requires_grad for p in backbone.role_parameters("policy"))


def test_reward_role_loads_as_a_sequence_classifier(build, base, tokens, sequences, tmp_path):
    backbone = build("policy", "reward", heads=("reward",))
    folder = backbone.save_role("reward", tmp_path / "reward")
    classifier = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32
    )
    theirs = PeftModel.from_pretrained(classifier, str(folder)).eval()
    with torch.no_grad():
        ours = backbone.scores(tokens, "reward")
        batch = theirs(tokens.input_ids, attention_mask=tokens.attention_mask.long())
        alone = [theirs(torch.tensor([ids])).logits[0, 0] for ids, _ in sequences]
    assert (batch.logits[:, 0] - ours).abs().max() < 1e-4
    assert (torch.stack(alone) - ours).abs().max() < 1e-4
    assert ours.abs().max() > 0.1


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_roles_come_back_exactly(build, tokens, tmp_path, quantization):
    saved = build("policy", "reward", heads=("reward",), quantization=quantization)
    folders = {r: str(saved.save_role(r, tmp_path / r)) for r in ("policy", "reward")}
    back = build(adapters={**folders, "reference": folders["policy"]}, quantization=quantization)
    back.add_role("reward", head=True)
    with torch.no_grad():
        policy = saved.logits(tokens, "policy")
        assert torch.equal(back.logits(tokens, "policy"), policy)
        assert torch.equal(back.logits(tokens, "reference"), policy)
        assert torch.equal(back.scores(tokens, "reward"), saved.scores(tokens, "reward"))
    assert not back.roles["reference"].trainable
    again = back.save_role("policy", tmp_path / "again")
    first = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    assert all(
        torch.equal(t, first[n]) for n, t in load_file(again / "adapter_model.safetensors").items()
    )


def test_reward_adapter_may_start_a_critic(build, tokens, tmp_path):
    folder = str(build("reward", heads=("reward",)).save_role("reward", tmp_path))
    backbone = build(adapters={"critic": folder})
    backbone.add_role("critic", head=True)
    saved = build(adapters={"reward": folder})
    saved.add_role("reward", head=True)
    with torch.no_grad():
        assert torch.equal(backbone.scores(tokens, "critic"), saved.scores(tokens, "reward"))


def test_a_role_is_written_as_what_it_is_and_not_as_what_it_began_as(build, base, tokens, tmp_path):
    """A reward adapter read as a policy is a policy: reading it again requires no head."""
    folder = build("reward", heads=("reward",)).save_role("reward", tmp_path / "reward")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["score"]
    backbone = build(adapters={"policy": str(folder)})
    folder = backbone.save_role("policy", tmp_path / "policy")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert config["modules_to_save"] is None
    theirs = PeftModel.from_pretrained(plain_model(base), str(folder)).eval()
    assert (plain_logits(theirs, tokens) - our_logits(backbone, tokens)).abs().max() < 1e-4


# ---- refusals ----


def test_adapter_of_another_width_is_refused(build, other_base, tmp_path):
    folder = build("policy", name=other_base).save_role("policy", tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"narrow holds an adapter of another base model"):
        build(adapters={"policy": str(folder)})


def test_adapter_of_another_family_is_refused(build, write_model, model_ids, tmp_path):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=16, **model_ids)
    gpt2 = write_model(config, GPT2LMHeadModel)
    folder = build("policy", name=gpt2, lora=LoRA(target_modules=["c_attn"])).save_role(
        "policy", tmp_path / "of_gpt2"
    )
    with pytest.raises(ValueError, match=r"of_gpt2 holds an adapter of another base model"):
        build(adapters={"policy": str(folder)})


def test_policy_folder_is_no_reward_role(build, tmp_path):
    folder = build("policy").save_role("policy", tmp_path / "sft")
    backbone = build(adapters={"reward": str(folder)})
    with pytest.raises(ValueError, match=r"sft holds an adapter without a score head"):
        backbone.add_role("reward", head=True)


def test_adapter_with_more_than_lora_is_refused(build, base, tmp_path):
    """Otherwise a trained output head, for example, would be dropped silently."""
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    get_peft_model(plain_model(base), config).save_pretrained(str(tmp_path / "wide"))
    with pytest.raises(ValueError, match=r"wide trained \['lm_head'\] whole, more than LoRA"):
        build(adapters={"policy": str(tmp_path / "wide")})


def test_missing_folder_is_named(build, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no adapter_model\.safetensors"):
        build(adapters={"policy": str(tmp_path / "nowhere")})


def test_bare_base_cannot_be_saved(build, tmp_path):
    backbone = build("policy")
    backbone.add_role("reference", trainable=False)
    with pytest.raises(ValueError, match=r"'reference' is the bare base .*: nothing to save"):
        backbone.save_role("reference", tmp_path)


# ---- merged ----


def relative(mine, theirs) -> float:
    return float((mine - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_model_answers_as_the_role(build, tokens, tmp_path, dtype):
    backbone = build("policy", "reward")
    folder = backbone.save_merged("policy", tmp_path / "merged", dtype)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert merged.dtype == getattr(torch, dtype)
    gap = relative(plain_logits(merged.float(), tokens), our_logits(backbone, tokens))
    assert gap < (1e-4 if dtype == "float32" else 2e-2)
    reward = our_logits(backbone, tokens, "reward")
    assert relative(plain_logits(merged, tokens), reward) > 0.1
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == backbone.tokenizer.eos_token_id
    assert Backbone(str(folder), dtype="float32").load().base.config.model_type == "llama"


def test_four_bit_base_is_dequantized_before_merging(build, base, tokens, tmp_path):
    """Merging into the 4-bit weights, as peft does when asked, rounds the adapter away."""
    backbone = build("policy", quantization="nf4")
    expected = our_logits(backbone, tokens)
    folder = backbone.save_merged("policy", tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert not hasattr(merged.config, "quantization_config")
    gap = relative(plain_logits(merged, tokens), expected)
    assert gap < 1e-4

    adapter = backbone.save_role("policy", tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(plain_model(base, "nf4"), str(adapter))
    into_four_bits = theirs.merge_and_unload().eval()
    guard_4bit_on_cpu(into_four_bits)
    theirs_gap = relative(plain_logits(into_four_bits, tokens), expected)
    assert theirs_gap > 0.01
    assert theirs_gap > 1000 * gap


def test_tied_and_transposed_weights_merge_too(build, write_model, model_ids, tokens, tmp_path):
    """GPT-2 ties its head to the embedding and keeps its linear weights transposed."""
    config = GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=32, **model_ids)
    backbone = build("policy", name=write_model(config, GPT2LMHeadModel))
    folder = backbone.save_merged("policy", tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert relative(plain_logits(merged, tokens), our_logits(backbone, tokens)) < 1e-4


def test_a_merged_reward_is_a_plain_classifier(build, tokens, sequences, tmp_path):
    backbone = build("reward", heads=("reward",), quantization="nf4")
    folder = backbone.save_merged("reward", tmp_path / "merged", "float32")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert plain.config.num_labels == 1
    with torch.no_grad():
        expected = backbone.scores(tokens, "reward")
        scores = [plain(input_ids=torch.tensor([ids])).logits[0, 0] for ids, _ in sequences]
    assert torch.allclose(torch.stack(scores), expected, atol=1e-4)


ADAPTERS = [
    {"target_modules": ["embed_tokens"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"use_dora": True},
    {"use_dora": True, "target_modules": ["v_proj", "embed_tokens"]},
    {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
    {"layers_to_transform": [1], "target_modules": ["q_proj"]},
]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", ADAPTERS, ids=str)
def test_every_kind_of_adapter_is_saved_as_it_is(
    build, write_model, tokens, tmp_path, options, tied
):
    """In peft, here again, and merged: also where the two ends of the model are one weight."""
    config = llama_config(layers=2)
    config.tie_word_embeddings = tied
    name = write_model(config, LlamaForCausalLM)
    quantization = random.Random(str(options)).choice([None, "nf4"])
    backbone = build(name=name, lora=LoRA(r=4, alpha=8, **options), quantization=quantization)
    backbone.add_role("policy")
    torch.manual_seed(1)
    own = lora.parameters(backbone.base, "policy")
    assert own, "nothing is trained"
    assert all(p.requires_grad for p in own.values())
    bare = our_logits(backbone, tokens)
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = our_logits(backbone, tokens)
    assert relative(bare, expected) > 1e-3
    folder = backbone.save_role("policy", tmp_path / "role")
    theirs = PeftModel.from_pretrained(plain_model(name, quantization), str(folder)).eval()
    assert relative(plain_logits(theirs, tokens), expected) < 1e-5
    again = build(name=name, adapters={"policy": str(folder)}, quantization=quantization)
    assert relative(our_logits(again, tokens), expected) < 1e-6
    folder = backbone.save_merged("policy", tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert relative(plain_logits(merged, tokens), expected) < 1e-4


def test_an_adapter_goes_from_peft_to_us_and_back(build, base, tokens, tmp_path):
    """Equal logits at each hand-over, the frozen embedding that peft writes beside it included."""
    config = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], use_dora=True)
    theirs = get_peft_model(plain_model(base), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.eval().save_pretrained(str(tmp_path / "theirs"))
    backbone = build(adapters={"policy": str(tmp_path / "theirs")})
    assert relative(our_logits(backbone, tokens), plain_logits(theirs, tokens)) < 1e-5
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = backbone.save_role("policy", tmp_path / "ours")
    again = PeftModel.from_pretrained(plain_model(base), str(folder)).eval()
    assert relative(plain_logits(again, tokens), our_logits(backbone, tokens)) < 1e-5


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa"),
            "initialized by 'pissa'",
        ),
        (LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3]), "single rows of the"),
        (LoraConfig(target_modules=["q_proj"], bias="all"), "more than LoRA layers"),
    ],
)
def test_what_no_role_carries_is_refused_by_its_name(
    build, write_model, model_ids, tmp_path, config, sentence
):
    name = write_model(Qwen2Config(**TINY, **model_ids), Qwen2ForCausalLM)
    theirs = get_peft_model(plain_model(name), config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    theirs.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=sentence):
        build(name=name, adapters={"policy": str(tmp_path / "adapter")})


# ---- the check before a role is called saved ----


def test_a_dropped_bias_is_noticed_and_the_old_files_stay(
    build, write_model, model_ids, tmp_path, monkeypatch
):
    """A planted fault in what is written."""
    config = Qwen2Config(**TINY, **model_ids)
    backbone = build("policy", name=write_model(config, Qwen2ForCausalLM))
    with torch.no_grad():
        for name, parameter in backbone.base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    folder = backbone.save_merged("policy", tmp_path / "merged", "bfloat16")
    before = (folder / "model.safetensors").read_bytes()
    whole = export.merged_state_dict

    def without_a_bias(*args):
        state = whole(*args)
        name = next(n for n in state if n.endswith("v_proj.bias"))
        return {**state, name: torch.zeros_like(state[name])}

    monkeypatch.setattr(export, "merged_state_dict", without_a_bias)
    with pytest.raises(ValueError, match=r"is not the role in training: its outputs differ by \d"):
        backbone.save_merged("policy", tmp_path / "merged", "bfloat16")
    assert (folder / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_wrong_scale_of_an_adapter_is_noticed(build, tmp_path, monkeypatch):
    backbone = build("policy")
    write = export.save_adapter

    def with_twice_the_alpha(*args):
        write(*args)
        file = args[2] / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 16}))

    monkeypatch.setattr(export, "save_adapter", with_twice_the_alpha)
    with pytest.raises(ValueError, match="is not the role in training"):
        backbone.save_role("policy", tmp_path / "role")
    assert not (tmp_path / "role").exists()


def test_the_check_leaves_the_backbone_as_it_was(build, tokens, tmp_path):
    backbone = build("policy", "reward", heads=("reward",))
    backbone.add_role("reference", trainable=False)
    before = {n: (p.requires_grad, p.clone()) for n, p in backbone.named_parameters()}
    expected = our_logits(backbone, tokens)
    with backbone.role("reward"):
        backbone.save_role("policy", tmp_path / "policy")
        assert backbone.switch.active == "reward"
    backbone.save_role("reward", tmp_path / "reward")
    after = dict(backbone.named_parameters())
    assert list(before) == list(after)
    assert all(after[n].requires_grad == g and torch.equal(after[n], p)
               for n, (g, p) in before.items())  # fmt: skip
    assert torch.equal(our_logits(backbone, tokens), expected)
    assert sorted(backbone.roles) == ["policy", "reference", "reward"]


def test_old_shards_do_not_stay_beside_new_weights(build, tmp_path):
    backbone = build("policy")
    folder = backbone.save_merged("policy", tmp_path / "merged", "float32")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    backbone.save_merged("policy", folder, "float32")
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_role_that_is_not_there_is_named(build, base, tmp_path):
    with pytest.raises(ValueError, match="no role 'critic' to save; the backbone has policy"):
        build("policy").save_role("critic", tmp_path)
    with pytest.raises(ValueError, match="no role 'policy' to save; the backbone has none yet"):
        Backbone(base).save_role("policy", tmp_path)


# ---- the whole model ----


def test_whole_model_is_saved_plain(build, tokens, tmp_path):
    backbone = build(lora=None)
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy"):
            parameter.mul_(1.05)
    for save in (backbone.save_role, lambda r, f: backbone.save_merged(r, f, "float32")):
        for role in ("policy", "reference"):
            folder = save(role, tmp_path / role)
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            expected = our_logits(backbone, tokens, role)
            assert (plain_logits(theirs, tokens) - expected).abs().max() < 1e-5
    assert not list(tmp_path.rglob("adapter_*"))


def test_a_whole_reward_is_saved_as_a_classifier(build, tokens, sequences, tmp_path):
    backbone = build(lora=None)
    backbone.add_role("reward", head=True)
    folder = backbone.save_role("reward", tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = backbone.scores(tokens, "reward")
        scores = [plain(input_ids=torch.tensor([ids])).logits[0, 0] for ids, _ in sequences]
    assert torch.allclose(torch.stack(scores), expected, atol=1e-4)


def test_a_role_on_another_adapter_is_not_saved(build, tmp_path):
    backbone = build("policy")
    backbone.add_role("critic", head=True, shares="policy")
    with pytest.raises(ValueError, match="runs through the adapter of 'policy'"):
        backbone.save_role("critic", tmp_path)


def test_a_failed_load_leaves_a_description(base, tmp_path):
    """A second try must not find a model without its roles and treat it as loaded."""
    backbone = Backbone(base, dtype="float32", adapters={"policy": str(tmp_path / "nowhere")})
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            backbone.load()
        assert not backbone.is_loaded
