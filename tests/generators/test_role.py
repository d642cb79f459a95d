"""A role's answers and option scores, against plain forwards."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf import Backbone, Sampling
from lightning_rlhf.constitution.generator import Request
from lightning_rlhf.generators.role import RoleGenerator
from lightning_rlhf.text.messages import Message
from runs import Runs

TURNS = (
    "{% for m in messages %}{{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}{% endfor %}"
)
ASKED: list[list[Message]] = [
    [{"role": "user", "content": "w1 w2 w3"}],
    [
        {"role": "user", "content": "w4"},
        {"role": "assistant", "content": "w5 w6"},
        {"role": "user", "content": "w7"},
    ],
    [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2 w9"}],
]
TEXTS = ["w1 w2 w3", "w4 w5 w6 <eos> w7", "w1 w2 w9"]


@pytest.fixture
def backbone(runs: Runs) -> Backbone:
    found = runs.backbone().load()
    found.tokenizer.chat_template = TURNS
    found.add_role("policy")
    for parameter in found.role_parameters("policy"):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return found


@pytest.mark.parametrize("options", [["w8", "w9"], ["w8 w1", "w9", "w3 w3 w3"]])
def test_an_option_is_the_sum_of_its_tokens(backbone: Backbone, options: list[str]) -> None:
    """Options of one or more tokens, at the start of a turn or inside one."""
    found = RoleGenerator(backbone, "policy").option_logprobs(ASKED, options)
    encode = backbone.tokenizer.encode
    for text, row in zip(TEXTS, found, strict=True):
        for option, score in zip(options, row, strict=True):
            before, tail = encode(text), encode(option)
            with backbone.role("policy"), torch.no_grad():
                logits = backbone.base(torch.tensor([before + tail])).logits[0].log_softmax(-1)
            plain = sum(float(logits[len(before) + i - 1, t]) for i, t in enumerate(tail))
            assert score == pytest.approx(plain, abs=1e-5)


def test_an_answer_is_its_seeds(backbone: Backbone) -> None:
    """The same alone, in a batch and in another order; another seed gives another answer."""
    ask = RoleGenerator(backbone, "policy", Sampling(max_new_tokens=8)).generate
    requests = [Request(messages, seed) for messages in ASKED for seed in (1, 2**62)]
    together = ask(requests)
    assert ask(requests[::-1]) == together[::-1]
    assert [ask([request])[0] for request in requests] == together
    assert together[0] != together[1]


def test_an_answer_does_not_hold_its_end(backbone: Backbone) -> None:
    ask = RoleGenerator(backbone, "policy", Sampling(max_new_tokens=30)).generate
    said = ask([Request(ASKED[0], seed) for seed in range(20)])
    assert any(answer.finished for answer in said)
    assert not any("<eos>" in answer.text for answer in said)


def test_one_answer_to_a_request(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="one answer"):
        RoleGenerator(backbone, "policy", Sampling(num_samples=2))


def test_the_identity_changes_with_the_weights(backbone: Backbone) -> None:
    """A retrained role, or another base below it, is asked again by a journal."""

    def weights() -> str:
        return RoleGenerator(backbone, "policy").identity["weights"]

    before = weights()
    assert weights() == before
    embedding = backbone.base.get_input_embeddings().weight
    for weight in (backbone.role_parameters("policy")[0], embedding):
        with torch.no_grad():
            kept = weight[0, 1].item()
            weight[0, 1] += 1e-3
            assert weights() != before
            weight[0, 1] = kept
    assert weights() == before


def test_a_trained_adapter_is_another_generator(runs: Runs) -> None:
    """Otherwise a journal would answer for weights that no longer exist."""
    backbone = runs.backbone().load()
    backbone.add_role("policy")
    before = RoleGenerator(backbone, "policy").identity
    backbone.role_parameters("policy")[1].data += 0.1
    after = RoleGenerator(backbone, "policy").identity
    assert before["weights"] != after["weights"]
    assert {**before, "weights": ""} == {**after, "weights": ""}


def test_the_bare_base_is_one_generator_whatever_roles_it_has(runs: Runs) -> None:
    backbone = runs.backbone().load()
    backbone.add_role("judge", trainable=False)
    before = RoleGenerator(backbone, "judge").identity
    backbone.add_role("policy")
    assert RoleGenerator(backbone, "judge").identity == before
    assert RoleGenerator(backbone, "policy").identity["weights"] != before["weights"]
