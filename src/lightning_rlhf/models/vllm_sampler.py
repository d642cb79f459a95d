"""Rollouts by vLLM, beside the backbone on one GPU: only the adapter travels."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_rlhf.models import lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.models.sampler import Sample, Sampling, stop_ids

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


class VLLMSampler:
    """Samples with a vLLM engine in this process, which holds the same base a second time.

    Before each rollout the role's adapter is written to a folder, if it changed, and given to vLLM
    under a number never used before, since vLLM remembers adapters by their number. Nothing is
    merged. The samples of a prompt share its forward through vLLM's prefix cache.

    Args:
        gpu_memory: share of the card's memory that vLLM may take while it is awake.
        max_model_len: longest prompt and completion together; None is the model's own.
        sleep: give the memory back between rollouts: weights wait on the host, keys and values go.
        options: further arguments of ``vllm.LLM``.
    """

    def __init__(
        self,
        gpu_memory: float = 0.5,
        max_model_len: int | None = None,
        sleep: bool = True,
        options: dict[str, Any] | None = None,
    ):
        self.gpu_memory = gpu_memory
        self.max_model_len = max_model_len
        self.sleep = sleep
        self.options = options
        self._llm: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._synced: tuple[bytes, Any] | None = None  # digest of the weights, their LoRARequest
        self._number = 0

    def sample(
        self, backbone: Backbone, role: str, prompts: Sequence[list[int]], sampling: Sampling
    ) -> list[Sample]:
        """See ``CompletionSampler``. ``kv_tokens`` is vLLM's own affair and is not looked at.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: the backbone trains the whole model.
        """
        if not prompts:
            return []
        llm = self._awake(backbone)
        ends = stop_ids(backbone)
        # one seed for all prompts would give them all the same noise; vLLM itself adds a sample's
        # place to its prompt's seed
        first = int(torch.randint(2**40, ()))
        parameters = [
            _vllm().SamplingParams(
                n=sampling.num_samples, temperature=sampling.temperature, top_p=1.0, top_k=-1,
                min_p=0.0, max_tokens=sampling.max_new_tokens, min_tokens=sampling.min_new_tokens,
                stop=list(sampling.stop_strings), stop_token_ids=ends, logprobs=0,
                skip_special_tokens=False, seed=first + i * sampling.num_samples,
            )
            for i in range(len(prompts))
        ]  # fmt: skip
        found = llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            parameters,
            lora_request=self._sync(backbone, role),
            use_tqdm=False,
        )
        if self.sleep:
            llm.sleep(level=1)
        return [_sample(said) for request in found for said in request.outputs]

    def _awake(self, backbone: Backbone) -> Any:
        if backbone.lora is None:
            raise ValueError(
                "VLLMSampler hands over adapters only: give the backbone lora=LoRA(), "
                "or sample with HFSampler"
            )
        if self._llm is None:
            self._llm = self._start(backbone)
        elif self.sleep:
            self._llm.wake_up()
        return self._llm

    def _start(self, backbone: Backbone) -> Any:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process, one card
        ranks = [config.r for config in backbone.base.peft_config.values()]
        options: dict[str, Any] = {
            "model": backbone.path,
            "dtype": backbone.base.dtype,
            "enable_lora": True,
            "max_lora_rank": next(r for r in RANKS if r >= max(ranks)),
            "max_loras": 1,
            "gpu_memory_utilization": self.gpu_memory,
            "enable_sleep_mode": self.sleep,
            "logprobs_mode": "processed_logprobs",  # at the temperature, as they were drawn
            "generation_config": "vllm",  # not the model's own top-k and penalties
        }
        if self.max_model_len is not None:
            options["max_model_len"] = self.max_model_len
        if backbone.quantization is not None:
            options["quantization"] = "bitsandbytes"  # 4 bits, made as the base is read
        return _vllm().LLM(**{**options, **(self.options or {})})

    def _sync(self, backbone: Backbone, role: str) -> Any:
        """The adapter as vLLM asks for it, written anew where it changed; None: the bare base."""
        if not backbone.roles[role].adapter:
            return None
        digest = weights_digest(lora.parameters(backbone.base, role))
        if self._synced is None or self._synced[0] != digest:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="lightning-rlhf-")
            home = Path(self._folder.name)
            shutil.rmtree(home / str(self._number), ignore_errors=True)
            self._number += 1
            folder = backbone.save_role(role, home / str(self._number))
            from vllm.lora.request import LoRARequest

            request = LoRARequest(f"{role}-{self._number}", self._number, str(folder))
            self._synced = digest, request
        return self._synced[1]


def _sample(said: Any) -> Sample:
    """One of vLLM's completions: its ids hold the end token, its logprobs one entry to a token."""
    ids = list(said.token_ids)
    logprobs = [at[token].logprob for at, token in zip(said.logprobs, ids, strict=True)]
    return Sample(ids, said.finish_reason == "stop", logprobs)


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            "VLLMSampler needs vLLM and an NVIDIA GPU: pip install vllm, or sample with HFSampler"
        ) from error
    return vllm
