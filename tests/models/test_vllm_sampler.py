"""The vLLM sampler against a stand-in that records its calls.

The stand-in knows vLLM's documented forms and no model: tests/test_gpu.py runs the real one.
"""

from __future__ import annotations

import sys
import types
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from lightning_rlhf.models import lora
from lightning_rlhf.models.sampler import Sample, Sampling
from lightning_rlhf.models.vllm_sampler import VLLMSampler


class Logprob(NamedTuple):
    logprob: float
    rank: int = 1


class Said(NamedTuple):
    token_ids: tuple[int, ...]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str


class Request(NamedTuple):
    outputs: list[Said]


class LoRARequest(NamedTuple):
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """Return each prompt's length and its seed's last digit; the second sample ends."""

    made: list[LLM]

    def __init__(self, **options: Any):
        self.options, self.calls, self.state = options, [], ["awake"]
        self.adapters: list[dict[str, torch.Tensor]] = []
        LLM.made.append(self)

    def generate(self, prompts, sampling_params, lora_request, use_tqdm):
        assert self.state[-1] == "awake"
        self.calls.append((prompts, sampling_params, lora_request))
        if lora_request is not None:
            self.adapters.append(load_file(f"{lora_request.lora_path}/adapter_model.safetensors"))
        return [
            Request([self._said(len(p["prompt_token_ids"]), k) for k in range(asked["n"])])
            for p, asked in zip(prompts, sampling_params, strict=True)
        ]

    def _said(self, length: int, k: int) -> Said:
        ids = (length, 10 + k)
        logprobs = [{7: Logprob(-9.0), i: Logprob(-i / 100)} for i in ids]
        return Said(ids, logprobs, "stop" if k == 1 else "length")

    def sleep(self, level: int) -> None:
        self.state.append(f"asleep {level}")

    def wake_up(self) -> None:
        self.state.append("awake")


@pytest.fixture
def vllm(monkeypatch) -> type[LLM]:
    LLM.made = []
    package = types.ModuleType("vllm")
    package.LLM, package.SamplingParams = LLM, dict  # type: ignore[attr-defined]
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for name, module in (
        ("vllm", package), ("vllm.lora", types.ModuleType("vllm.lora")),
        ("vllm.lora.request", request),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return LLM


PROMPTS = [[5, 6, 7], [8]]


def test_samples_of_a_prompt_stand_together_with_their_own_log_probs(build, vllm):
    backbone = build("policy")
    found = VLLMSampler().sample(backbone, "policy", PROMPTS, Sampling(2, num_samples=2))
    assert found == [
        Sample([3, 10], False, [-0.03, -0.10]),
        Sample([3, 11], True, [-0.03, -0.11]),
        Sample([1, 10], False, [-0.01, -0.10]),
        Sample([1, 11], True, [-0.01, -0.11]),
    ]


def test_sampling_is_plain_and_seeds_are_apart(build, vllm):
    backbone = build("policy")
    sampler = VLLMSampler()
    sampling = Sampling(9, 2, 0.7, num_samples=3, stop_strings=("\n",))
    torch.manual_seed(0)
    for _ in range(2):
        sampler.sample(backbone, "policy", PROMPTS, sampling)
    torch.manual_seed(0)
    sampler.sample(backbone, "policy", PROMPTS, sampling)
    (llm,) = vllm.made
    asked = [call[1] for call in llm.calls]
    plain = {k: v for k, v in asked[0][0].items() if k != "seed"}
    assert plain == {
        "n": 3, "temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "max_tokens": 9,
        "min_tokens": 2, "stop": ["\n"], "stop_token_ids": [backbone.tokenizer.eos_token_id],
        "logprobs": 0, "skip_special_tokens": False,
    }  # fmt: skip
    seeds = [{p["seed"] + k for p in call for k in range(3)} for call in asked]
    assert len(seeds[0]) == 6, "a seed to a sample, and vLLM adds its place"
    assert seeds[0] == seeds[2] and not seeds[0] & seeds[1]


def test_the_engine_is_made_once_for_this_backbone(build, vllm):
    backbone = build("policy", quantization="nf4")
    sampler = VLLMSampler(0.3, max_model_len=64, options={"enforce_eager": True})
    for _ in range(2):
        sampler.sample(backbone, "policy", PROMPTS, Sampling(2))
    (llm,) = vllm.made
    assert llm.options == {
        "model": backbone.path, "dtype": torch.float32, "enable_lora": True, "max_lora_rank": 8,
        "max_loras": 1, "gpu_memory_utilization": 0.3, "enable_sleep_mode": True,
        "logprobs_mode": "processed_logprobs", "generation_config": "vllm", "max_model_len": 64,
        "quantization": "bitsandbytes", "enforce_eager": True,
    }  # fmt: skip
    assert llm.state == ["awake", "asleep 1", "awake", "asleep 1"]


def test_an_adapter_gets_a_new_number_when_and_only_when_it_changed(build, vllm):
    backbone = build("policy", "other")
    backbone.add_role("reference", trainable=False)
    sampler = VLLMSampler(sleep=False)

    def request(role: str) -> LoRARequest | None:
        sampler.sample(backbone, role, PROMPTS, Sampling(2))
        return vllm.made[0].calls[-1][2]

    first = request("policy")
    assert request("policy") == first
    with torch.no_grad():
        backbone.role_parameters("policy")[-1].add_(1.0)
    changed = request("policy")
    others = request("other")
    assert [r.lora_int_id for r in (first, changed, others)] == [1, 2, 3]
    assert request("policy").lora_int_id == 4
    assert request("reference") is None, "the bare base"
    own = [p.detach() for p in lora.parameters(backbone.base, "policy").values()]
    sent = vllm.made[0].adapters[-1]
    assert sorted(float(t.sum()) for t in sent.values()) == pytest.approx(
        sorted(float(p.sum()) for p in own)
    )
    assert LoraConfig.from_pretrained(request("policy").lora_path).r == 4
    assert vllm.made[0].state == ["awake"]


def test_what_cannot_be_done_is_said(build, vllm, monkeypatch):
    whole = build("policy", lora=None)
    with pytest.raises(ValueError, match="takes adapters only"):
        VLLMSampler().sample(whole, "policy", PROMPTS, Sampling(2))
    assert VLLMSampler().sample(whole, "policy", [], Sampling(2)) == []
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm"):
        VLLMSampler().sample(build("policy"), "policy", PROMPTS, Sampling(2))
