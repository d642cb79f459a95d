"""Ancestral sampling from a role: no top-k, top-p or penalties."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from lightning_rlhf.functional.memory import free_cached_memory, is_out_of_memory
from lightning_rlhf.models import lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.decoding import (
    CachedRows,
    Prompts,
    RecomputedRows,
    Rows,
    StopRules,
    StopStrings,
    decode,
    why_uncached,
)
from lightning_rlhf.models.merging import copy_bytes, why_unmergeable

log = logging.getLogger(__name__)
MERGED_TOKENS = 512  # with fewer tokens to sample, merging an adapter costs more than it saves
CPU_CACHE_BYTES = 2**30  # fixed, so that a resumed run cuts the same chunks


@dataclass(frozen=True)
class Sampling:
    """Sampling options. Top-p, top-k and penalties are left out: they would make a KL negative.

    Attributes:
        max_new_tokens: length at which a completion that does not end is cut.
        min_new_tokens: number of tokens before an end is possible. Above 0 the samples are not
            the policy's: their log-probs are of the distribution without end tokens, and a KL to
            the policy or its reference computed from them is wrong, and may be negative.
        temperature: divides the logits; 0 is greedy.
        num_samples: completions per prompt; they share its forward.
        stop_strings: a completion also ends with the token that completes one of them.
        kv_tokens: keys and values held at a time, in tokens over all rows; None adapts to the
            device.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    _: KW_ONLY
    num_samples: int = 1
    stop_strings: tuple[str, ...] = ()
    kv_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens must lie between 0 and max_new_tokens "
                f"({self.max_new_tokens}), got {self.min_new_tokens}"
            )
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be 1 or more per prompt, got {self.num_samples}")
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise ValueError(f"stop_strings must be a list of texts, got {self.stop_strings!r}")
        if self.kv_tokens is not None and self.kv_tokens < 1:
            raise ValueError(f"kv_tokens must be 1 or more tokens, got {self.kv_tokens}")


class Sample(NamedTuple):
    """One sampled completion."""

    ids: list[int]  # with its end token where it ended by one
    finished: bool  # ended by an end token or a stop string, not by length
    logprobs: list[float]  # the sampler's own, at its temperature; greedy: at temperature 1


class CompletionSampler(Protocol):
    """Protocol of a sampler: it completes prompts as a role."""

    def sample(
        self, backbone: Backbone, role: str, prompts: Sequence[list[int]], sampling: Sampling
    ) -> list[Sample]:
        """Sample ``len(prompts) * num_samples`` completions in order, prompt by prompt."""


class HFSampler:
    """Sample with the backbone itself, over transformers' cache.

    The random numbers of all rows are drawn from the device's global generator before the first
    token. So a row's tokens depend on that generator's state, on the row's place in the call and on
    ``max_new_tokens``. Chunks, padding and other rows change them by rounding only.

    Args:
        merge: merge the adapter into the base's weights while sampling. None merges where it is
            faster: not into 4 bits, from 512 tokens to sample, and on a GPU only if the copy fits
            into a quarter of its memory.
    """

    def __init__(self, merge: bool | None = None):
        self.merge = merge
        self._room: int | None = None  # tokens of keys and values that fit, once memory has run out

    @torch.no_grad()
    def sample(
        self,
        backbone: Backbone,
        role: str,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> list[Sample]:
        """Sample completions; see ``CompletionSampler``.

        Args:
            backbone: loaded.
            role: completes the prompts.
            prompts: token ids.
            sampling: options.
            seeds: one per completion, whose draws then do not depend on its place; None uses the
                global generator.

        Raises:
            ValueError: a prompt is empty, or too long for its completion to fit the model, or the
                role cannot be merged as asked.
        """
        if empty := [i for i, p in enumerate(prompts) if len(p) == 0]:
            raise ValueError(f"prompt {empty[0]} is empty: start it with a BOS token")
        check_fits(backbone, max(map(len, prompts), default=0), sampling.max_new_tokens)
        rows = [i for i in range(len(prompts)) for _ in range(sampling.num_samples)]
        model = backbone.model_of(role)
        uniform = None
        if sampling.temperature > 0 and rows:
            shape = len(rows), sampling.max_new_tokens
            uniform = _uniform(shape, model.device, seeds)
        rules = _rules(backbone, sampling)
        budget = min(sampling.kv_tokens or default_kv_tokens(model), self._room or sys.maxsize)
        samples: dict[int, Sample] = {}
        most = len(rows) * sampling.max_new_tokens
        with self._as(backbone, role, most), evaluating(model):
            for chunk in _chunks(prompts, rows, sampling.max_new_tokens, budget):
                texts = [list(prompts[rows[r]]) for r in chunk]
                draws = None if uniform is None else uniform[chunk]
                for row, one in zip(
                    chunk, self._decoded(backbone, role, texts, rules, draws=draws), strict=True
                ):
                    samples[row] = one
        return [samples[row] for row in range(len(rows))]

    def _decoded(
        self,
        backbone: Backbone,
        role: str,
        texts: list[list[int]],
        rules: StopRules,
        *,
        draws: torch.Tensor | None,
    ) -> list[Sample]:
        """Complete a chunk; where memory runs out, its halves, and later chunks in that size."""
        try:
            decoder = _start(backbone, role, texts, rules)
            decoded = decode(decoder, len(texts), rules, draws)
            return [Sample(one.ids, one.finished, one.logprobs) for one in decoded]
        except RuntimeError as error:
            if len(texts) == 1 or not is_out_of_memory(error):
                raise
            decoder = None
        half = len(texts) // 2
        self._room = half * (max(map(len, texts)) + rules.longest)
        log.warning(
            "memory ran out while %d completions were sampled together: kv_tokens=%d from here on",
            len(texts),
            self._room,
        )
        free_cached_memory()
        first, second = (None, None) if draws is None else (draws[:half], draws[half:])
        return [
            *self._decoded(backbone, role, texts[:half], rules, draws=first),
            *self._decoded(backbone, role, texts[half:], rules, draws=second),
        ]

    def _as(self, backbone: Backbone, role: str, most: int) -> AbstractContextManager[None]:
        merge = self.merge
        if merge is None:
            merge = merging_pays(backbone, role, most)
        return backbone.merged(role) if merge else backbone.role(role)


def check_fits(backbone: Backbone, prompt: int, new: int) -> None:
    """Check that a model has a position for every token of a prompt and its completion.

    GPT-2 would end in an IndexError, Llama would give text at positions it was never trained on.

    Args:
        backbone: names the number of positions.
        prompt: tokens of the longest prompt.
        new: most tokens of a completion.

    Raises:
        ValueError: it has not.
    """
    there = backbone.context_length
    if there is not None and prompt > 0 and prompt + new > there:
        raise ValueError(
            f"a prompt of {prompt} tokens and {new} new ones go beyond the {there} positions of "
            f"{backbone.name_or_path} (max_position_embeddings): give max_new_tokens="
            f"{max(there - prompt, 1)} or less, or shorter prompts (max_length)"
        )


def room(backbone: Backbone, prompts: Sequence[list[int]], most: int) -> int:
    """Number of tokens, up to ``most``, that fit the model behind the longest prompt."""
    there = backbone.context_length
    if there is None:
        return most
    return max(1, min(most, there - max(map(len, prompts), default=0)))


def _uniform(
    shape: tuple[int, int], device: torch.device, seeds: Sequence[int] | None
) -> torch.Tensor:
    """Uniform numbers that draw the tokens: (rows, tokens) fp64."""
    if seeds is None:
        return torch.rand(shape, dtype=torch.float64, device=device)
    if len(seeds) != shape[0]:
        raise ValueError(f"{shape[0]} completions need {shape[0]} seeds, got {len(seeds)}")
    each = (torch.Generator().manual_seed(seed) for seed in seeds)
    rows = [torch.rand(shape[1], dtype=torch.float64, generator=own) for own in each]
    return torch.stack(rows).to(device)


def merging_pays(backbone: Backbone, role: str, tokens: int) -> bool:
    """Tell whether merging makes sampling this many tokens faster, see benchmarks/README.md."""
    if not backbone.roles[role].adapter or tokens < MERGED_TOKENS:
        return False
    adapted = lora.layers(backbone.base)
    device = backbone.base.device
    fits = device.type == "cpu" or 4 * copy_bytes(adapted) <= _memory(device)
    return fits and why_unmergeable(adapted, role) is None


def stop_ids(backbone: Backbone) -> list[int]:
    """List the tokens that end an answer: the tokenizer's, and those of the generation config."""
    found = {backbone.tokenizer.eos_token_id}
    config = backbone.base.generation_config
    of_model = getattr(config, "eos_token_id", None)
    found |= set(of_model if isinstance(of_model, list) else [of_model])
    return sorted(i for i in found if isinstance(i, int))


def default_kv_tokens(model: PreTrainedModel) -> int:
    """Number of tokens whose keys and values are held at a time.

    They take 1 GiB on a CPU, and on a GPU half of the memory that the weights leave. The number
    does not depend on what else the device holds, so it is the same on every run.
    """
    config = model.config.get_text_config(decoder=True)
    all_heads = getattr(config, "num_attention_heads", None) or 1  # none in a state space
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // all_heads
    token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    room = CPU_CACHE_BYTES
    if model.device.type != "cpu":
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        room = (_memory(model.device) - weights) // 2
    return max(1, room // token)


def _memory(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)


def _chunks(
    prompts: Sequence[list[int]], rows: list[int], new: int, budget: int
) -> Iterator[list[int]]:
    """Cut rows into chunks of similar length that fit a budget, at least one row each.

    ``cut_by_budget`` does not apply: rows are padded, so each costs as much as the longest.
    """
    chunk: list[int] = []
    for row in sorted(range(len(rows)), key=lambda r: len(prompts[rows[r]])):
        # sorted by length: the last row is the longest, and all are padded to it
        if chunk and (len(chunk) + 1) * (len(prompts[rows[row]]) + new) > budget:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _start(backbone: Backbone, role: str, texts: list[list[int]], rules: StopRules) -> Rows:
    """Prefill the prompts, equal ones once."""
    runner, pad_id = backbone.runner_of(role), backbone.tokenizer.pad_token_id
    place = {text: i for i, text in enumerate(dict.fromkeys(map(tuple, texts)))}
    prompts = Prompts([list(text) for text in place], [place[tuple(text)] for text in texts])
    reason = why_uncached(runner.model)
    if reason is None:
        return CachedRows(runner, prompts, pad_id, room=rules.longest)
    log.warning(
        "%s decodes without a cache, which is slow: %s", type(runner.model).__name__, reason
    )
    return RecomputedRows(runner, prompts, pad_id)


def _rules(backbone: Backbone, sampling: Sampling) -> StopRules:
    stopped = None
    if sampling.stop_strings:
        first = sampling.min_new_tokens
        stopped = StopStrings(backbone.tokenizer, sampling.stop_strings, first).stopped
    return StopRules(
        longest=sampling.max_new_tokens,
        shortest=sampling.min_new_tokens,
        temperature=sampling.temperature,
        stops=frozenset(stop_ids(backbone)),
        stopped=stopped,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in eval mode, where gradient checkpointing keeps the cache; restore modes afterwards."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
