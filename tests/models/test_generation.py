"""Sampling follows a role's probabilities, independently of the other rows of a batch."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel

from lightning_rlhf.models.decoding import left_pad
from lightning_rlhf.models.generation import answer, generate
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.sampler import Sample, stop_ids

PROMPTS = [[5, 9, 40, 41, 17, 3], [8], [90, 12, 33], [60, 61, 62, 63, 64, 65, 66, 67, 4], [7, 7]]


@pytest.fixture
def backbone(build):
    backbone = build("policy")
    backbone.add_role("reference", trainable=False)
    return backbone


Said = tuple[list[int], bool]


def said(samples: list[Sample]) -> list[Said]:
    """Ids and endings only: log-probs differ in their last bits between batches."""
    return [(sample.ids, sample.finished) for sample in samples]


def greedy(backbone, role, prompts=PROMPTS, max_new_tokens=8) -> list[Said]:
    return said(generate(backbone, role, prompts, max_new_tokens, temperature=0.0))


def their_answer(model, prompt, stops, max_new_tokens=8) -> Said:
    """Greedy decoding of one prompt by transformers itself, nothing padded."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops, pad_token_id=0
    )
    with torch.no_grad():
        row = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
    ids = row.tolist()
    return ids, ids[-1] in stops


def test_greedy_is_transformers_greedy(backbone, base):
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    expected = [their_answer(plain, p, stop_ids(backbone)) for p in PROMPTS]
    assert greedy(backbone, "reference") == expected
    backbone.eval()
    with backbone.role("policy"):
        adapted = [their_answer(backbone.base, p, stop_ids(backbone)) for p in PROMPTS]
    assert greedy(backbone, "policy") == adapted
    assert adapted != expected


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_neighbors_in_a_batch_change_nothing(build, base, write_model, model_ids, family):
    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=2, n_positions=32, initializer_range=0.2, **model_ids
    )
    name = base if family == "llama" else write_model(config, GPT2LMHeadModel)
    backbone = build("policy", name=name)
    alone = [greedy(backbone, "policy", [p])[0] for p in PROMPTS]
    assert greedy(backbone, "policy") == alone
    assert greedy(backbone, "policy", PROMPTS[::-1]) == alone[::-1]
    assert len({tuple(ids) for ids, _ in alone}) == len(PROMPTS), "answers tell the prompts apart"


def test_adapters_drop_nothing_out_while_they_answer(build):
    answers = [
        greedy(build("policy", lora=LoRA(r=4, alpha=8, dropout=p)), "policy") for p in (0.0, 0.5)
    ]
    assert answers[0] == answers[1]


def test_no_prompts_no_answers(backbone):
    assert generate(backbone, "policy", []) == []


def cut(free: list[Said], stop: int) -> list[Said]:
    """Cut answers after the first of some stop tokens."""
    return [(ids[: ids.index(stop) + 1], True) if stop in ids else (ids, False) for ids, _ in free]


def test_an_end_token_ends_and_is_told(backbone):
    """Any stop token of the model's generation config ends an answer, beside the tokenizer's."""
    free = greedy(backbone, "reference")
    assert all(len(ids) == 8 and not finished for ids, finished in free)
    stop = free[1][0][3]
    backbone.base.generation_config.eos_token_id = [backbone.tokenizer.eos_token_id, stop]
    assert stop_ids(backbone) == sorted([backbone.tokenizer.eos_token_id, stop])
    ended = generate(backbone, "reference", PROMPTS, 8, temperature=0.0)
    assert said(ended) == cut(free, stop)
    assert ended[1].finished and not all(a.finished for a in ended)
    assert answer(backbone, ended[1]) == ended[1].ids[:-1]
    unfinished = next(a for a in ended if not a.finished)
    assert answer(backbone, unfinished) == unfinished.ids


def test_pad_may_be_the_end_token(backbone):
    free = greedy(backbone, "reference")
    stop = free[1][0][3]
    backbone.tokenizer.eos_token_id = backbone.tokenizer.pad_token_id = stop
    assert greedy(backbone, "reference") == cut(free, stop)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_role_are_restored(backbone, training):
    backbone.train(training)
    own = backbone.base.generation_config
    with backbone.role("policy"):
        generate(backbone, "reference", PROMPTS[:2], 2)
        assert backbone.switch.active == "policy"
        with pytest.raises(ValueError):
            generate(backbone, "reference", [["no", "ids"]], 2)
    assert {m.training for m in backbone.base.modules()} == {training}
    assert backbone.base.generation_config is own


# ---- sampling ----


def chi_square(backbone, prompt, temperature, n=6000) -> float:
    """Chi-square of first tokens against the model's own probabilities; 95 degrees of freedom."""
    with torch.no_grad(), backbone.role("policy"):
        logits = backbone.base(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    expected = n * torch.softmax(logits / temperature, -1)
    torch.manual_seed(11)
    answers = generate(backbone, "policy", [prompt] * n, 1, temperature)
    first = torch.tensor([a.ids[0] for a in answers])
    seen = torch.bincount(first, minlength=len(expected))
    return float(((seen - expected) ** 2 / expected).sum())


LIMIT = 95 + 5 * (2 * 95) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_follow_the_models_probabilities(backbone, temperature):
    assert chi_square(backbone, [5, 9, 40], temperature) < LIMIT


def test_the_models_generation_config_does_not_bend_the_samples(backbone):
    """Qwen2.5 ships top_k and a repetition penalty; transformers fills in what is left out."""
    own = GenerationConfig(
        do_sample=True, top_k=20, top_p=0.8, temperature=0.7, repetition_penalty=2.0, min_p=0.01
    )
    backbone.base.generation_config = own
    assert chi_square(backbone, [5, 9, 40], 1.0) < LIMIT
    likeliest = greedy(backbone, "policy", max_new_tokens=16)
    backbone.base.generation_config = GenerationConfig()
    assert greedy(backbone, "policy", max_new_tokens=16) == likeliest


def test_left_pad_puts_pads_and_zeros_in_front():
    ids, mask = left_pad([[1, 2, 3], [4]], 9, torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
