"""Sampling by vLLM, beside the backbone on one GPU: only the adapter is copied."""

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

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes as max_lora_rank


class VLLMSampler:
    """Sample with vLLM in this process, which holds the same base a second time.

    Before each call the role's adapter is written to a folder, if it changed, and given to vLLM
    under a new number, since vLLM caches adapters by their number. Nothing is merged. The samples
    of a prompt share its forward through vLLM's prefix cache.

    Args:
        gpu_memory: share of the card's memory that vLLM may take while it is awake.
        max_model_len: longest prompt and completion together; None is the model's own.
        sleep: free the memory between calls: weights move to the host, keys and values are dropped.
        options: further arguments of ``vllm.LLM``.
    """

    def __init__(
        self,
        gpu_memory: float = 0.5,
        max_model_len: int | None = None,
        sleep: bool = True,
        *,
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
        """Sample completions; see ``CompletionSampler``. vLLM ignores ``kv_tokens``.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: the backbone trains the whole model.
        """
        if not prompts:
            return []
        llm = self._awake(backbone)
        ends = stop_ids(backbone)
        # one seed for all prompts would give them all the same noise; vLLM adds the index of a
        # sample to the seed of its prompt
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
        requests = llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            parameters,
            lora_request=self._sync(backbone, role),
            use_tqdm=False,
        )
        if self.sleep:
            llm.sleep(level=1)
        return [_sample(output) for request in requests for output in request.outputs]

    def _awake(self, backbone: Backbone) -> Any:
        if backbone.lora is None:
            raise ValueError(
                "VLLMSampler takes adapters only: give the backbone lora=LoRA(), "
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
            "logprobs_mode": "processed_logprobs",  # at the sampling temperature
            "generation_config": "vllm",  # not the model's own top-k and penalties
        }
        if self.max_model_len is not None:
            options["max_model_len"] = self.max_model_len
        if backbone.quantization is not None:
            options["quantization"] = "bitsandbytes"  # quantized while the base is read
        return _vllm().LLM(**{**options, **(self.options or {})})

    def _sync(self, backbone: Backbone, role: str) -> Any:
        """Write the adapter if it changed; returns vLLM's request for it, or None for the base."""
        if not backbone.roles[role].adapter:
            return None
        digest = weights_digest(lora.parameters(backbone.base, role))
        if self._synced is None or self._synced[0] != digest:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="lightning-rlhf-")
            home = Path(self._folder.name)
            shutil.rmtree(home / str(self._number), ignore_errors=True)
            self._number += 1
            folder = backbone.save_role(role, home / str(self._number), check=False)
            from vllm.lora.request import LoRARequest

            request = LoRARequest(f"{role}-{self._number}", self._number, str(folder))
            self._synced = digest, request
        return self._synced[1]


def _sample(output: Any) -> Sample:
    """Convert a vLLM completion: ids include the end token, logprobs have one entry per token."""
    ids = list(output.token_ids)
    logprobs = [at[token].logprob for at, token in zip(output.logprobs, ids, strict=True)]
    return Sample(ids, output.finish_reason == "stop", logprobs)


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            "VLLMSampler needs vLLM and an NVIDIA GPU: pip install vllm, or sample with HFSampler"
        ) from error
    return vllm
