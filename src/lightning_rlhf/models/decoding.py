"""Autoregressive decoding: prefill, decode steps, stop conditions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.batches import cut_by_budget
from lightning_rlhf.functional.sampling import draw
from lightning_rlhf.models.heads import decoder_of
from lightning_rlhf.models.layout import positions
from lightning_rlhf.models.packing import ATTENTION_KINDS, cache_name, run_packed
from lightning_rlhf.models.runner import Runner

# Prompt tokens per forward: enough to keep a device busy, few enough for a layer's activations.
PREFILL_TOKENS = {"cpu": 1024}
PREFILL_TOKENS_ELSEWHERE = 8192
DROPPED_SHARE = 0.125  # finished rows are dropped once they are this share of the batch


class StopRules(NamedTuple):
    """Stop conditions of a completion, and the temperature of its tokens."""

    longest: int
    shortest: int
    temperature: float
    stops: frozenset[int]  # tokens that end a completion
    stopped: Callable[[list[int]], bool] | None  # tells a stop string; None: no strings


class Decoded(NamedTuple):
    """One decoded completion."""

    ids: list[int]
    logprobs: list[float]
    finished: bool


class Rows(Protocol):
    """A batch of rows during decoding."""

    logits: Tensor  # (B, V) of the next token

    def step(self, tokens: Tensor) -> None:
        """Append a token to every row: (B,)."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these: (R,) int64."""


def decode(rows: Rows, count: int, rules: StopRules, uniform: Tensor | None) -> list[Decoded]:
    """Decode rows until each has ended.

    Finished rows keep decoding (output ignored) until an eighth of the batch has finished; then all
    of them are dropped at once.

    Args:
        rows: after the prefill of their prompts.
        count: how many rows there are.
        rules: stop conditions.
        uniform: (B, longest) fp64 numbers that draw the tokens; None is greedy.
    """
    ids: list[list[int]] = [[] for _ in range(count)]
    logprobs: list[list[float]] = [[] for _ in range(count)]
    done = [False] * count
    live = list(range(count))  # the row at each place of the batch
    at = torch.arange(count, device=rows.logits.device)
    stops = torch.tensor(sorted(rules.stops), dtype=torch.long, device=at.device)
    for t in range(rules.longest):
        logits = rows.logits
        if t < rules.shortest:
            logits = logits.index_fill(1, stops, float("-inf"))
        token, logprob = draw(
            logits, rules.temperature, None if uniform is None else uniform[at, t]
        )
        for row, id_, lp in zip(live, token.tolist(), logprob.tolist(), strict=True):
            if not done[row]:
                ids[row].append(id_)
                logprobs[row].append(lp)
                done[row] = _ended(ids[row], rules)
        left = [place for place, row in enumerate(live) if not done[row]]
        if not left or t + 1 == rules.longest:
            break
        if len(live) - len(left) >= max(1, DROPPED_SHARE * len(live)):
            live = [live[place] for place in left]
            kept = torch.tensor(left, device=at.device)
            rows.keep(kept)
            at, token = at[kept], token[kept]
        rows.step(token)
    return [Decoded(*parts) for parts in zip(ids, logprobs, done, strict=True)]


def _ended(ids: list[int], rules: StopRules) -> bool:
    if ids[-1] in rules.stops:
        return True
    return rules.stopped is not None and len(ids) >= rules.shortest and rules.stopped(ids)


class StopStrings:
    """Stop condition: the decoded text contains one of some strings.

    Args:
        tokenizer: decodes the ids.
        strings: each ends a completion.
        first: the length at which a completion is checked for the first time.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], first: int):
        self.tokenizer = tokenizer
        self.strings = tuple(strings)
        self.first = first
        # a token has at least one byte; 8 more, since a cut tail may begin inside a character
        self.tail = max(len(s.encode()) for s in strings) + 8

    def stopped(self, ids: list[int]) -> bool:
        """Check ids at every length from ``first`` on: then only their tail is new."""
        seen = ids if len(ids) == max(1, self.first) else ids[-self.tail :]
        text = self.tokenizer.decode(seen, clean_up_tokenization_spaces=False)
        return any(s in text for s in self.strings)


# ---- rows over transformers' cache ----


class Prompts(NamedTuple):
    """Distinct prompts, and the prompt that each row continues."""

    ids: list[list[int]]
    of_row: list[int]


class CachedRows:
    """Rows over transformers' own cache, which the attention of each model family reads.

    Each prompt runs through the model once, packed without padding if the model can. Its keys and
    values are then laid out left-padded, once per row that continues it.

    Args:
        runner: the model, switched to the role.
        prompts: to be continued.
        pad_id: fills up rows.
        room: number of tokens a row may gain.
    """

    def __init__(self, runner: Runner, prompts: Prompts, pad_id: int, *, room: int):
        self.model = runner.model
        device = self.model.device
        budget = PREFILL_TOKENS.get(device.type, PREFILL_TOKENS_ELSEWHERE)
        pieces = cut_by_budget(map(len, prompts.ids), budget)
        read = [_read(runner, prompts.ids[p.start : p.stop], pad_id) for p in pieces]
        of_row = torch.tensor(prompts.of_row, device=device)
        self.logits = torch.cat([p.logits for p in read])[of_row]
        lengths = torch.tensor([len(p) for p in prompts.ids], device=device)
        width = int(lengths.max())
        column = torch.arange(width, device=device)
        pads = (width - lengths)[:, None]
        # a pad repeats its prompt's first token: finite, and masked
        place = (lengths.cumsum(0) - lengths)[:, None] + (column - pads).clamp(min=0)
        self.cache = DynamicCache(config=self.model.config)
        for layer in range(len(read[0].keys)):
            keys, values = (
                torch.cat([side[layer] for side in sides])[place[of_row]].transpose(1, 2)
                for sides in ([p.keys for p in read], [p.values for p in read])
            )
            for p in read:  # only one layer at a time exists twice
                p.keys[layer] = p.values[layer] = torch.empty(0)
            self.cache.update(keys, values, layer)
        mask = torch.ones(len(of_row), width + room, dtype=torch.long, device=device)
        mask[:, :width] = (column >= pads)[of_row]
        self.mask, self.width = mask, width
        self.position = lengths[of_row]

    def step(self, tokens: Tensor) -> None:
        self.width += 1
        self.logits = _forward(
            self.model,
            tokens[:, None],
            self.mask[:, : self.width],
            self.position[:, None],
            self.cache,
        )
        self.position = self.position + 1

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]


class _Read(NamedTuple):
    """Prompts after prefill: logits at their ends; keys and values of each token."""

    logits: Tensor  # (U, V)
    keys: list[Tensor]  # per layer (tokens, heads, D)
    values: list[Tensor]


def _read(runner: Runner, prompts: list[list[int]], pad_id: int) -> _Read:
    model, cache = runner.model, DynamicCache()  # without a config, sliding layers keep all tokens
    if runner.packs:
        groups = tuple((len(p),) for p in prompts)
        ids = torch.tensor([[token for p in prompts for token in p]], device=model.device)
        real = torch.ones_like(ids, dtype=torch.bool)
        ends = torch.tensor([len(p) for p in prompts], device=model.device).cumsum(0) - 1
        inputs = {"input_ids": ids, "position_ids": positions(groups).to(ids.device)}
        logits = run_packed(model, {**inputs, "logits_to_keep": ends}, groups, cache).logits[0]
    else:
        ids, mask = left_pad(prompts, pad_id, model.device)
        real = mask.bool()
        logits = _forward(model, ids, mask, _places(mask), cache)
    keys = [layer.keys.transpose(1, 2)[real] for layer in cache.layers]
    return _Read(logits, keys, [layer.values.transpose(1, 2)[real] for layer in cache.layers])


def why_uncached(model: PreTrainedModel) -> str | None:
    """Reason why a model's keys and values cannot be laid out in rows; None if they can."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION_KINDS
    if cache_name(model) is None:
        return "its forward takes no cache"
    if not model._supports_default_dynamic_cache():
        return "its cache is of its own kind"
    if getattr(model, "_is_stateful", False) or kinds:
        return f"not all its layers are attention ({', '.join(sorted(kinds)) or 'stateful'})"
    if getattr(config, "num_kv_shared_layers", None):
        return "some of its layers share keys and values"
    return None


# ---- rows without a cache ----


class RecomputedRows:
    """Rows that run through the model whole at every step: slow, but right for any model.

    They are padded on the right, where no causal model sees it: some ignore the attention mask.

    Args:
        runner: the model, switched to the role.
        prompts: to be continued.
        pad_id: fills up rows.
    """

    def __init__(self, runner: Runner, prompts: Prompts, pad_id: int):
        self.model, self.pad_id = runner.model, pad_id
        self.rows = [list(prompts.ids[i]) for i in prompts.of_row]
        self.logits = self._logits()

    def step(self, tokens: Tensor) -> None:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        self.logits = self._logits()

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def _logits(self) -> Tensor:
        """Run the rows; returns the logits of the next token of each: (B, V)."""
        device, length = self.model.device, max(map(len, self.rows))
        padded = [row + [self.pad_id] * (length - len(row)) for row in self.rows]
        ids = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(row) for row in self.rows], device=device)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": (torch.arange(length, device=device) < lengths[:, None]).long(),
        }
        if "position_ids" in inspect.signature(decoder_of(self.model).forward).parameters:
            inputs["position_ids"] = torch.arange(length, device=device).expand_as(ids)
        ends, column = torch.unique(lengths - 1, return_inverse=True)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            inputs["logits_to_keep"] = ends
        else:
            column = lengths - 1
        logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits[torch.arange(len(self.rows), device=device), column]


def _forward(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    places: Tensor,
    cache: DynamicCache,
) -> Tensor:
    """Run left-padded rows; returns the logits of the next token: (B, V)."""
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": mask,
        str(cache_name(model)): cache,
    }
    if "position_ids" in inspect.signature(decoder_of(model).forward).parameters:
        inputs["position_ids"] = places
    logits: Tensor = model(**inputs, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1]


def _places(mask: Tensor) -> Tensor:
    """Positions of left-padded tokens, counted from each row's own start: (B, T)."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def left_pad(rows: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad rows on the left, as decoding needs them: ids and mask (B, T)."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
