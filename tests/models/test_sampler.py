"""Samples equal transformers' own and follow the probabilities, in any layout."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lightning_rlhf.models import decoding
from lightning_rlhf.models import sampler as rollout
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import HFSampler, Sample, Sampling, default_kv_tokens, stop_ids
from lightning_rlhf.quickstart.model import word_tokenizer
from lightning_rlhf.training.hparams import describe
from support import pad_rows

PROMPTS = [[5, 9, 40, 41, 17, 3], [8], [90, 12, 33], [60, 61, 62, 63, 64, 65, 66, 67, 4], [7, 7]]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, SHAPE),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {**SHAPE, **SLIDING, "use_sliding_window": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {**SHAPE, "sliding_window": 5}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {**SHAPE, **SLIDING, "head_dim": 8}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {**SHAPE, **SLIDING, "head_dim": 8}),
    "gpt2": (
        GPT2Config,
        GPT2LMHeadModel,
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.2},
    ),
    "bloom": (
        BloomConfig,
        BloomForCausalLM,
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
    ),
    "lfm2": (Lfm2Config, Lfm2ForCausalLM, {**SHAPE, "layer_types": ["conv", "full_attention"]}),
}


@pytest.fixture
def family(write_model, model_ids) -> Callable[..., Backbone]:
    """A backbone of a family's tiny random model, whose policy is the bare base."""

    def family(name: str, **options: Any) -> Backbone:
        config, kind, shape = FAMILIES[name]
        folder = write_model(config(**shape, **model_ids), kind)
        backbone = Backbone(folder, dtype="float32", **options).load()
        backbone.add_role("policy", trainable=False)
        return backbone

    return family


def run(backbone, prompts=PROMPTS, sampler=None, **sampling: Any) -> list[Sample]:
    sampling = {"max_new_tokens": 8, **sampling}
    return (sampler or HFSampler()).sample(backbone, "policy", prompts, Sampling(**sampling))


def ids(samples: list[Sample]) -> list[list[int]]:
    return [sample.ids for sample in samples]


@torch.no_grad()
def theirs(backbone, prompt: list[int], **config: Any) -> list[list[int]]:
    """transformers' own ``generate`` of one prompt, nothing padded; cut after the first end."""
    stops = stop_ids(backbone)
    backbone.eval()
    with backbone.role("policy"):
        rows = backbone.base.generate(
            torch.tensor([prompt]),
            generation_config=GenerationConfig(eos_token_id=stops, pad_token_id=0, **config),
        )[:, len(prompt) :].tolist()
    backbone.train()
    ends = [next((i for i, t in enumerate(r) if t in stops), len(r)) for r in rows]
    return [row[: end + 1] for row, end in zip(rows, ends, strict=True)]


# ---- greedy: token for token ----


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_transformers_own(family, name, caplog):
    """Ragged prompts, twice each, in chunks, some ended early; past a sliding window."""
    backbone = family(name)
    free = [theirs(backbone, p, max_new_tokens=8, do_sample=False)[0] for p in PROMPTS]
    backbone.base.generation_config.eos_token_id = [free[i][len(free[i]) // 2] for i in (0, 3)]
    expected = [theirs(backbone, p, max_new_tokens=8, do_sample=False)[0] for p in PROMPTS]
    assert len({len(e) for e in expected}) > 1, "rows end at different steps"
    for kv_tokens in (None, 40):
        found = run(backbone, temperature=0.0, num_samples=2, kv_tokens=kv_tokens)
        assert ids(found) == [e for e in expected for _ in range(2)]
        assert [s.finished for s in found] == [s.ids[-1] in stop_ids(backbone) for s in found]
    assert ("without a cache" in caplog.text) == (name == "lfm2")


def test_recomputing_is_what_the_cache_does(family, monkeypatch):
    backbone = family("llama")
    torch.manual_seed(0)
    cached = run(backbone, num_samples=2)
    monkeypatch.setattr(rollout, "why_uncached", lambda model: "a test")
    torch.manual_seed(0)
    assert ids(run(backbone, num_samples=2)) == ids(cached)


def test_four_bit_bases_decode_what_they_compute(build):
    """Greedy over the cache against one teacher-forced forward of the whole."""
    backbone = build("policy", quantization="nf4")
    for prompt, said in zip(PROMPTS, run(backbone, temperature=0.0), strict=True):
        batch = pad_rows([(prompt + said.ids, [False] * len(prompt) + [True] * len(said.ids))], 0)
        with torch.no_grad():
            assert backbone.logits(batch, "policy").argmax(-1).tolist() == said.ids


# ---- sampled: in distribution ----


@pytest.fixture(scope="module")
def small_world(tmp_path_factory) -> Backbone:
    """A vocabulary of seven tokens, small enough to list every completion."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = word_tokenizer(["a", "b", "c"])
    torch.manual_seed(3)
    config = LlamaConfig(
        **SHAPE, vocab_size=7, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )  # pad and unk may be drawn like any other token
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    backbone = Backbone(str(folder), dtype="float32").load()
    backbone.add_role("policy", trainable=False)
    return backbone


LENGTH, EOS = 3, 2
WORLD = [[4, 5, 6, 5, 4], [6]]


def completions(prefix: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """List every completion: ended by EOS, or cut."""
    if len(prefix) == LENGTH or prefix[-1:] == (EOS,):
        yield prefix
    else:
        for token in range(7):
            yield from completions((*prefix, token))


@torch.no_grad()
def probabilities(backbone, prompt, temperature) -> dict[tuple[int, ...], float]:
    """Compute each completion's probability with a teacher-forced forward."""
    every = list(completions())
    rows = [(prompt + list(c), [False] * len(prompt) + [True] * len(c)) for c in every]
    batch = pad_rows(rows, 0)
    logprobs = backbone.logprobs(batch, "policy", temperature).double()
    sums = torch.zeros(len(every), dtype=torch.double).index_add_(
        0, batch.completion_index, logprobs
    )
    return dict(zip(every, sums.exp().tolist(), strict=True))


def chi_square(samples: list[list[int]], expected: dict[tuple[int, ...], float]) -> float:
    """Chi-square in standard deviations from its mean; rare completions are pooled."""
    n = len(samples)
    seen = dict.fromkeys(expected, 0)
    for sample in samples:
        seen[tuple(sample)] += 1
    common = [c for c, p in expected.items() if n * p >= 5]
    cells = [(seen[c], n * expected[c]) for c in common]
    cells.append((n - sum(s for s, _ in cells), n - sum(e for _, e in cells)))
    free = len(cells) - 1
    return (sum((s - e) ** 2 / e for s, e in cells if e > 0) - free) / (2 * free) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_are_distributed_as_every_completion_is_probable(small_world, temperature):
    """By brute force; the same bound must refuse a nearby temperature and another prompt."""
    truth = [probabilities(small_world, p, temperature) for p in WORLD]
    assert all(sum(t.values()) == pytest.approx(1) for t in truth)
    n = 12_000
    torch.manual_seed(5)
    found = ids(
        run(small_world, WORLD, max_new_tokens=LENGTH, temperature=temperature, num_samples=n,
            kv_tokens=30_000)
    )  # fmt: skip
    for i, expected in enumerate(truth):
        own = found[i * n : (i + 1) * n]
        assert abs(chi_square(own, expected)) < 4
        wrong = probabilities(small_world, WORLD[i], temperature * 1.15)
        assert chi_square(own, wrong) > 8
        assert chi_square(own, truth[1 - i]) > 8


def test_transformers_samples_pass_the_same_bound(small_world):
    torch.manual_seed(5)
    config = {"do_sample": True, "top_k": 0, "top_p": 1.0, "num_return_sequences": 6000}
    for prompt in WORLD:
        found = theirs(small_world, prompt, max_new_tokens=LENGTH, temperature=0.6, **config)
        assert abs(chi_square(found, probabilities(small_world, prompt, 0.6))) < 4


# ---- log-probs ----


def teacher_forced(backbone, samples, prompts, temperature) -> torch.Tensor:
    rows = [
        (p + s.ids, [False] * len(p) + [True] * len(s.ids))
        for p, s in zip(prompts, samples, strict=True)
    ]
    with torch.no_grad():
        return backbone.logprobs(pad_rows(rows, 0), "policy", temperature)


def gap(backbone, samples, prompts, temperature) -> torch.Tensor:
    """The sampler's log-probs against those of a forward over the whole, token by token."""
    own = torch.tensor([lp for s in samples for lp in s.logprobs])
    return (own - teacher_forced(backbone, samples, prompts, temperature)).abs()


@pytest.mark.parametrize("merge", [True, False])
def test_log_probs_are_those_of_a_teacher_forced_forward(build, merge):
    backbone = build("policy")
    backbone.base.generation_config.eos_token_id = list(range(40, 60))
    samples = run(backbone, num_samples=3, temperature=0.7, sampler=HFSampler(merge))
    assert {s.finished for s in samples} == {True, False}
    prompts = [p for p in PROMPTS for _ in range(3)]
    assert gap(backbone, samples, prompts, 0.7).max() < 1e-4


def test_greedy_log_probs_are_those_at_temperature_one(build):
    backbone = build("policy")
    samples = run(backbone, temperature=0.0)
    assert gap(backbone, samples, PROMPTS, 1.0).max() < 1e-4


def test_the_gap_of_a_bf16_base_is_its_rounding_merged_or_not(build):
    """Merging rounds the adapter into bf16, and costs about what bf16 forwards differ by anyway."""
    backbone = build("policy", dtype="bfloat16")
    prompts = [p for p in PROMPTS for _ in range(16)]
    means = {}
    for merge in (False, True):
        torch.manual_seed(0)
        samples = run(backbone, num_samples=16, sampler=HFSampler(merge))
        means[merge] = float(gap(backbone, samples, prompts, 1.0).mean())
    assert 1e-4 < means[False] < 0.05, "bf16 is not exact, and not wrong"
    assert means[True] < 3 * means[False]


# ---- what ends a completion ----


def test_stop_strings_end_a_completion_where_they_are_complete(build):
    """By the definition: the first length from the least on whose text contains one."""
    backbone = build("policy")
    free = run(backbone, temperature=0.0)
    texts = (backbone.tokenizer.decode(free[0].ids[2:4]), backbone.tokenizer.decode(free[3].ids[5]))
    for least in (0, 4, 6):
        found = run(backbone, temperature=0.0, stop_strings=(*texts, "never"), min_new_tokens=least)
        for whole, sample in zip(free, found, strict=True):
            said = {n: backbone.tokenizer.decode(whole.ids[:n]) for n in range(max(1, least), 9)}
            ends = next((n for n, s in said.items() if any(t in s for t in texts)), None)
            assert sample.ids == whole.ids[:ends] and len(sample.logprobs) == len(sample.ids)
            assert sample.finished == (ends is not None)
        assert {s.finished for s in found} == {True, False}


def test_stop_strings_within_tokens_and_across_long_answers(build):
    """A stop string inside a word, and a check of the tail only at every step."""
    backbone = build("policy")
    strings = decoding.StopStrings(backbone.tokenizer, ["7 w1"], first=0)
    long = [40] * 50
    assert not strings.stopped(long)
    w = {i: backbone.tokenizer.convert_tokens_to_ids(f"w{i}") for i in (17, 12, 8)}
    assert strings.stopped([*long, w[17], w[12]])
    assert not strings.stopped([*long, w[17], w[8]])
    assert not strings.stopped([w[17], w[12], *long]), "it would have ended there"


def test_no_end_before_the_min_length(build):
    backbone = build("policy")
    free = run(backbone, temperature=0.0)
    stops = {s.ids[0] for s in free}
    backbone.base.generation_config.eos_token_id = sorted(stops)
    assert all(len(s.ids) == 1 for s in run(backbone, temperature=0.0))
    held = run(backbone, temperature=0.0, min_new_tokens=3)
    assert all(len(s.ids) >= 4 and not stops & set(s.ids[:3]) for s in held)
    for prompt, sample in zip(PROMPTS, held, strict=True):
        expected = theirs(backbone, prompt, max_new_tokens=8, min_new_tokens=3, do_sample=False)
        assert sample.ids == expected[0]


# ---- rows know nothing of one another ----


def test_layout_changes_no_row(build, base, monkeypatch):
    """Chunks, packing, when finished rows are dropped, prefill in pieces, other rows, order."""
    backbone = build("policy")
    backbone.base.generation_config.eos_token_id = list(range(40, 55))

    def sampled(backbone=backbone, prompts=PROMPTS, **options: Any) -> list[list[int]]:
        torch.manual_seed(2)
        return ids(run(backbone, prompts, num_samples=3, **options))

    expected = sampled()
    assert len({len(e) for e in expected}) > 3 and len(set(map(tuple, expected))) > 9
    for kv_tokens in (1, 30, 70):
        assert sampled(kv_tokens=kv_tokens) == expected
    for leaving in (0.0, 2.0):
        monkeypatch.setattr(decoding, "DROPPED_SHARE", leaving)
        assert sampled() == expected
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", {"cpu": 4})
    assert sampled() == expected
    assert sampled(build("policy", attention="sdpa")) == sampled(build("policy")), (
        "packed and padded"
    )
    # a row's numbers lie in a row of their own: neighbors after it change nothing
    assert sampled(prompts=PROMPTS[:2]) == expected[:6]


def test_the_same_state_of_the_generator_gives_the_same_samples(build):
    backbone = build("policy")
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, second = run(backbone), run(backbone)
    assert ids(first) != ids(second)
    torch.set_rng_state(state)
    again = run(backbone)
    assert again == first, "bit for bit, log-probs too"
    torch.set_rng_state(state)
    torch.rand(len(PROMPTS), 8, dtype=torch.float64)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    run(backbone, kv_tokens=1)
    assert torch.equal(torch.get_rng_state(), after), "a number to a row and step, whatever happens"
    run(backbone, temperature=0.0)
    assert torch.equal(torch.get_rng_state(), after), "greedy draws none"


def test_a_prompt_is_read_once_for_all_its_samples(build, monkeypatch):
    backbone = build("policy")
    read: list[int] = []
    own = decoding.run_packed

    def counted(model, inputs, *args):
        read.append(inputs["input_ids"].numel())
        return own(model, inputs, *args)

    monkeypatch.setattr(decoding, "run_packed", counted)
    run(backbone, [*PROMPTS, PROMPTS[0]], num_samples=5)
    assert read == [sum(map(len, PROMPTS))], "one forward, equal prompts once, nothing padded"


# ---- inside of training ----


def test_modes_and_checkpointing_change_nothing(build):
    backbone = build("policy")
    torch.manual_seed(1)
    plain = ids(run(backbone))
    backbone = build("policy", gradient_checkpointing=True)
    frozen = backbone.base.model.layers[1]
    frozen.eval()  # somebody's own choice
    torch.manual_seed(1)
    assert ids(run(backbone)) == plain
    assert not frozen.training and backbone.base.model.layers[0].training


@pytest.mark.parametrize("merge", [True, False])
def test_sampling_within_autocast_leaves_the_gradient(build, tokens, gradients, merge):
    """Casts that autocast remembers from a forward without gradients would have none."""
    found = []
    for rolled in (False, True):
        backbone = build("policy")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if rolled:
                samples = run(backbone, num_samples=16, sampler=HFSampler(merge))
                prompts = [p for p in PROMPTS for _ in range(16)]
                assert gap(backbone, samples, prompts, 1.0).mean() < 0.05
            backbone.logprobs(tokens, "policy").sum().backward()
        found.append(gradients(backbone, "policy"))
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


# ---- merging ----


def test_four_bits_are_never_merged_into(build):
    backbone = build("policy", quantization="nf4")
    assert not rollout.merging_pays(backbone, "policy", 10_000)
    run(backbone, max_new_tokens=1, num_samples=512)
    with pytest.raises(ValueError, match="quantized weights would round the adapter away"):
        run(backbone, sampler=HFSampler(merge=True))
    plain = build("policy")
    assert rollout.merging_pays(plain, "policy", 512)
    assert not rollout.merging_pays(plain, "policy", 511)


def test_a_bare_base_and_a_whole_model_have_nothing_to_merge(build):
    for backbone in (build("policy"), build("policy", lora=None)):
        backbone.add_role("reference", trainable=False)
        before = dict(backbone.base.named_parameters())
        with backbone.merged("reference"):
            assert backbone.switch.active == "reference"
            assert all(before[n] is p for n, p in backbone.base.named_parameters())
        said = HFSampler(merge=True).sample(backbone, "reference", PROMPTS, Sampling(2))
        assert len(said) == len(PROMPTS)


# ---- what is asked for ----


def test_sampling_says_what_is_wrong():
    for wrong, said in (
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_new_tokens": 200}, "min_new_tokens must lie between 0 and max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"num_samples": 0}, "num_samples"),
        ({"stop_strings": "text"}, "stop_strings must be a list"),
        ({"stop_strings": [""]}, "stop_strings must be a list"),
        ({"kv_tokens": 0}, "kv_tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            Sampling(**wrong)


def test_an_empty_prompt_is_refused_and_no_prompts_are_fine(build):
    backbone = build("policy")
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        run(backbone, [[4], []])
    assert run(backbone, []) == []


class _Module(torch.nn.Module):
    def __init__(self, sampling: Sampling, sampler: HFSampler):
        super().__init__()
        self.sampling = sampling
        self.sampler = sampler


def test_sampling_comes_from_yaml_and_is_described():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--sampling", type=Sampling)
    parsed = parser.parse_object({"sampling": {"stop_strings": ["\n"], "temperature": 0.5}})
    sampling = parser.instantiate(parsed).sampling
    assert sampling == Sampling(stop_strings=("\n",), temperature=0.5)
    said = describe(_Module(sampling, HFSampler(merge=False)))
    assert (
        parser.instantiate(parser.parse_object({"sampling": said["sampling"]})).sampling == sampling
    )
    assert said["sampler"]["init_args"] == {"merge": False}


def test_the_kv_budget_is_in_tokens_of_this_model(build):
    backbone = build("policy")
    token = 2 * 3 * 2 * 16 * 4  # keys and values, layers, heads, width, bytes
    assert default_kv_tokens(backbone.base) == 2**30 // token
    rows = [len(c) for c in rollout._chunks([[0] * 5, [0] * 1], [0, 0, 1, 1, 1], 3, 17)]
    assert rows == [3, 2], "3 rows of 1 + 3, for a fourth would make them 5 + 3 wide"
    assert [len(c) for c in rollout._chunks([[0] * 5], [0, 0], 3, 1)] == [1, 1]


def test_every_completion_is_listed():
    assert len(list(completions())) == 1 + 6 + 36 * 7
    assert len(set(itertools.chain(completions()))) == 259
