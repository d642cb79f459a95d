"""Packed rows with shared prompts give the same results as one row per completion."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.data.collate import token_batch
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.models import attention, lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.layout import unpacked
from lightning_rlhf.models.lora import LoRA

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2, a window in one layer": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"use_sliding_window": True, "sliding_window": 5, "layer_types": SLIDING},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "mistral, a window": (MistralConfig, MistralForCausalLM, {"sliding_window": 5}),
    "gemma2, a window and a soft cap": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"sliding_window": 5, "attn_logit_softcapping": 2.0, "layer_types": SLIDING},
    ),
    "gemma3, a window": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {"sliding_window": 5, "layer_types": SLIDING},
    ),
    "smollm3, no rotary in one layer": (
        SmolLM3Config,
        SmolLM3ForCausalLM,
        {"no_rope_layers": [1, 0]},
    ),
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    """A family's tiny model with an adapter and a head that do something; made once per options."""
    made: dict[tuple, Backbone] = {}

    def backbone(family: str, **options: Any) -> Backbone:
        key = (family, *sorted(options.items()))
        if key not in made:
            config, model, extra = FAMILIES[family]
            folder = tmp_path_factory.mktemp("family")
            torch.manual_seed(0)
            model(config(**SHAPE | extra)).save_pretrained(folder)
            settings_ = {"lora": LoRA(r=4), "dtype": "float32", **options}
            made[key] = Backbone(str(folder), **settings_).load()
            made[key].add_role("policy", head=True)
            for parameter in lora.parameters(made[key].base, "policy").values():
                nn.init.normal_(parameter, std=0.05)
        return made[key]

    return backbone


def rows_of(lengths: list[tuple[int, list[int]]], seed: int = 0) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)

    def words(n: int) -> list[int]:
        return torch.randint(3, 97, (n,), generator=generator).tolist()

    return [
        TokenRow(words(p), [words(n) for n in cs], [[True] * n for n in cs],
                 list(range(len(cs))))
        for p, cs in lengths
    ]  # fmt: skip


def outcome(backbone: Backbone, tokens: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, scores, and the adapter's gradient of a loss that weighs each differently."""
    backbone.zero_grad()
    logprobs = backbone.logprobs(tokens, "policy")
    scores = backbone.scores(tokens, "policy")
    weights = torch.linspace(-1, 1, len(logprobs))
    ((logprobs * weights).sum() + (scores * torch.arange(1.0, len(scores) + 1)).sum()).backward()
    grads = [p.grad.flatten() for p in lora.parameters(backbone.base, "policy").values()]
    return logprobs.detach(), scores.detach(), torch.cat(grads)


def agree(one: tuple[Tensor, ...], other: tuple[Tensor, ...], tolerance: float = 1e-4) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


LENGTHS = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=4)),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lengths=LENGTHS)
def test_shared_and_unshared_rows_agree(
    family: str, lengths: list, backbones: Callable[..., Backbone]
) -> None:
    backbone = backbones(family)
    assert backbone._runner.packs
    tokens = token_batch(rows_of(lengths))
    agree(outcome(backbone, tokens), outcome(backbone, unpacked(tokens)))


MIXED = [(7, [4, 6]), (0, [3, 2]), (9, [5]), (3, [1, 8, 2])]


@pytest.mark.parametrize(
    "options",
    [{"quantization": "nf4"}, {"gradient_checkpointing": True}, {"lora": LoRA(r=4, dropout=0.0)}],
    ids=["nf4", "checkpointing", "plain"],
)
def test_with_every_kind_of_base(options: dict, backbones: Callable[..., Backbone]) -> None:
    backbone = backbones("llama", **options)
    tokens = token_batch(rows_of(MIXED))
    agree(outcome(backbone, tokens), outcome(backbone, unpacked(tokens)))


def test_unpacked_is_every_completion_after_its_prompt() -> None:
    rows = rows_of(MIXED)
    apart = unpacked(token_batch(rows), pad_id=0)
    expected = [row.prompt_ids + c for row in rows for c in row.completion_ids]
    for ids, mask, wanted in zip(apart.input_ids, apart.attention_mask, expected, strict=True):
        assert ids[mask].tolist() == wanted
    flat = apart.input_ids.flatten()
    assert flat[apart.last_index].tolist() == [ids[-1] for ids in expected]
    assert flat[apart.predictor_index + 1].tolist() == apart.target_ids.tolist()
    assert unpacked(apart) is apart


def test_the_order_of_groups_changes_nothing(backbones: Callable[..., Backbone]) -> None:
    backbone, rows = backbones("llama"), rows_of(MIXED)
    forward = backbone.scores(token_batch(rows), "policy").detach()
    backward = backbone.scores(token_batch(rows[::-1]), "policy").detach()
    counts = [len(row.completion_ids) for row in rows]
    parts = backward.split(counts[::-1])[::-1]
    assert (forward - torch.cat(parts)).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_no_completion_sees_another(family: str, backbones: Callable[..., Backbone]) -> None:
    backbone, rows = backbones(family), rows_of([(6, [4, 5, 3]), (4, [2, 6])])
    tokens = token_batch(rows)
    ids = tokens.input_ids.clone()
    ids[0, 10:15] = (ids[0, 10:15] + 1) % 97  # the second completion of the first prompt
    before = backbone.hidden_states(tokens, "policy")[0]
    after = backbone.hidden_states(tokens._replace(input_ids=ids), "policy")[0]
    moved = (after - before).abs().amax(-1)
    assert moved[10:15].min() > 0
    assert torch.cat([moved[:10], moved[15:]]).max() == 0.0


def test_a_layer_that_drops_the_layout_is_an_error(
    backbones: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones("llama")
    monkeypatch.setattr(backbone.base.config, "_attn_implementation", "sdpa")
    with pytest.raises(RuntimeError, match="0 of 2 layers saw the packed layout"):
        backbone.scores(token_batch(rows_of(MIXED)), "policy")


def test_a_model_that_cannot_pack_runs_padded_and_says_so(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        backbone = Backbone(str(tmp_path), lora=LoRA(r=4), dtype="float32").load()
    assert not backbone._runner.packs
    assert [r.message for r in caplog.records if "padded rows" in r.message] != []
    backbone.add_role("policy", head=True)
    tokens = token_batch(rows_of(MIXED))
    agree(outcome(backbone, tokens), outcome(backbone, unpacked(tokens)))


def test_a_named_attention_keeps_padded_rows(backbones: Callable[..., Backbone]) -> None:
    backbone = backbones("llama", attention="eager")
    assert not backbone._runner.packs
    assert backbone.base.config._attn_implementation == "eager"
    tokens = token_batch(rows_of(MIXED))
    agree(outcome(backbone, tokens), outcome(backbones("llama"), tokens))


def test_varlen_places_name_the_keys_of_every_segment() -> None:
    row = attention.PackedRow(((3, 2, 1), (2, 4)))
    places, queries, keys, longest_query, longest_key = row.varlen(torch.device("cpu"))
    found = [part.tolist() for part in places.split(keys.diff().tolist())]
    assert found == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 5], [6, 7, 8, 9, 10, 11]]
    assert queries.tolist() == [0, 3, 5, 6, 12]
    assert (longest_query, longest_key) == (6, 6)


def test_a_device_without_varlen_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """The CPU is such a device."""
    attention.varlen_serves.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not attention.varlen_serves(torch.device("cpu"))
        assert not attention.varlen_serves(torch.device("cpu"))
    (said,) = (r.getMessage() for r in caplog.records)
    assert said.startswith("cpu has no varlen attention, segments run one by one: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 5])
def test_varlen_equals_segments_on_a_gpu(window: int | None) -> None:
    row = attention.PackedRow(((12, 9, 4), (3, 20)))
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, 48, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2)
    )
    extras = attention.Extras(None, window, None, None)
    segments = attention._by_segment(row, q, k, v, extras)
    varlen = attention._by_varlen(row, q, k, v, extras)
    assert (segments - varlen).abs().max() < 2e-2
