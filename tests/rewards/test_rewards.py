"""Sources of rewards: roles, functions, classifiers on other bases, and sums of them."""

from __future__ import annotations

import copy
import csv
import gc
import random
import re
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from lightning_rlhf import (
    Backbone,
    ClassifierReward,
    FunctionReward,
    LoRA,
    PPOModule,
    PromptData,
    RoleReward,
    Sampling,
    UpdateSchedule,
)
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.models.classifier import ClassifierFiles
from lightning_rlhf.models.export import reward_tokenizer
from lightning_rlhf.rewards.as_rewards import as_rewards
from lightning_rlhf.rewards.base import RewardInputs
from lightning_rlhf.rewards.judge import JudgeReward
from lightning_rlhf.text.messages import parse_transcript
from runs import Runs
from support import NUMBERS, number_pairs

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ ' ' + m['role'] + ' ' + m['content'] }}{% endfor %}"
)
BOS = 1


@pytest.fixture(scope="module")
def backbone(tiny_base: str) -> Backbone:
    return Backbone(tiny_base, lora=LoRA(r=4), dtype="float32").load()


@pytest.fixture
def runs(tiny_base: str, tmp_path: Path) -> Runs:
    return Runs(tiny_base, tmp_path)


@pytest.fixture(scope="module", params=[None, TEMPLATE], ids=["plain", "template"])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama whose words have other ids than the policy's, saved with its tokenizer."""
    special = {"pad_token": "[pad]", "bos_token": "[bos]", "eos_token": "[eos]", "unk_token": "[?]"}
    words = [*special.values(), "user", "assistant", *reversed(NUMBERS)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[?]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("[bos] $A", None, [("[bos]", BOS)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **special)
    tokenizer.chat_template = request.param
    folder = tmp_path_factory.mktemp("classifier") / "judge"
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.15, num_labels=1,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def reward_inputs(backbone: Backbone, said: list[tuple[str, str]]) -> RewardInputs:
    prompts, completions = [p for p, _ in said], [c for _, c in said]
    ids = [[backbone.tokenizer(text).input_ids for text in side] for side in (prompts, completions)]
    tokens = [completion_batch(*ids, range(len(said)))]
    texts = [f"{p} {c}" for p, c in said]
    return RewardInputs(prompts, completions, [{"prompt": p} for p in prompts], tokens, texts)


SAID = [("w1 w2", "w3"), ("w4", "w5 w6 w7 w8 w9"), ("w10 w11 w12", "w13 w14")]


# ---- roles ----


def test_a_role_scores_at_the_last_token(backbone: Backbone) -> None:
    backbone.add_role("judge", head=True)
    reward = RoleReward("judge", weight=0.5)
    reward.prepare(backbone)
    found = reward.score(backbone, reward_inputs(backbone, SAID))
    for (prompt, completion), score in zip(SAID, found, strict=True):
        ids = torch.tensor([backbone.tokenizer(f"{prompt} {completion}").input_ids])
        with torch.no_grad(), backbone.role("judge"):
            states = backbone.base.model(input_ids=ids).last_hidden_state[0, -1]
        assert score.item() == pytest.approx(backbone.head("judge")(states).item(), abs=1e-4)
    assert reward.weight == 0.5 and found.dtype == torch.float32 and not found.requires_grad


def test_a_role_that_is_not_there_or_has_no_head(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="no role 'absent' to score with: train one with Reward"):
        RoleReward("absent").prepare(backbone)
    backbone.add_role("speaker")
    with pytest.raises(ValueError, match="role 'speaker' has no head to score with"):
        RoleReward("speaker").prepare(backbone)


# ---- functions ----


def test_a_function_that_miscounts(backbone: Backbone) -> None:
    reward = FunctionReward(lambda prompts, completions, rows: [1.0])
    with pytest.raises(ValueError, match="gave 1 scores for 3 completions"):
        reward.score(backbone, reward_inputs(backbone, SAID))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_function_that_gives_no_number(backbone: Backbone, bad: Any) -> None:
    def judge(prompts: list[str], completions: list[str], rows: list[dict]) -> list[Any]:
        return [0.0, bad, 1.0]

    with pytest.raises(ValueError, match=rf"judge gave {bad} for 'w5 w6 w7 w8 w9': return fin"):
        FunctionReward(judge).score(backbone, reward_inputs(backbone, SAID))


def test_rewards_need_different_names() -> None:
    with pytest.raises(ValueError, match="each of another name"):
        as_rewards([RoleReward("reward"), RoleReward("reward")])
    with pytest.raises(ValueError, match="give one or more rewards"):
        as_rewards([])


# ---- classifiers ----


def expected(
    folder: str, said: list[tuple[str, str]], finished: Sequence[bool] = (True,) * 99
) -> list[float]:
    """Each text alone, unpadded, with ids made by hand."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    place = tokenizer.get_vocab()
    scores = []
    for (prompt, completion), done in zip(said, finished, strict=False):
        words = f"{prompt} {completion}{' [eos]' * done}".split()
        if tokenizer.chat_template:
            words = ["user", *prompt.split(), "assistant", *completion.split()]
        with torch.no_grad():
            ids = torch.tensor([[BOS, *(place[word] for word in words)]])
            scores.append(model(input_ids=ids).logits.item())
    return scores


def test_a_classifier_reads_its_own_tokens(backbone: Backbone, classifier: str) -> None:
    reward = ClassifierReward(classifier, quantization=None, batch_size=2)
    reward.prepare(backbone)
    found = reward.score(backbone, reward_inputs(backbone, SAID))
    assert reward.name == "judge"
    torch.testing.assert_close(found, torch.tensor(expected(classifier, SAID)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_padding_changes_no_score(backbone: Backbone, classifier: str, quantization: Any) -> None:
    def score(said: list[tuple[str, str]], batch_size: int) -> torch.Tensor:
        reward = ClassifierReward(classifier, quantization, batch_size)
        return reward.score(backbone, reward_inputs(backbone, said))

    together = score(SAID, 8)
    torch.testing.assert_close(together, score(SAID, 1), atol=1e-5, rtol=0)
    assert len(set(together.tolist())) == len(SAID)


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_classifier_is_held_only_while_it_scores(
    backbone: Backbone, classifier: str, quantization: Any, keep: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[weakref.ref] = []
    four_bit: list[bool] = []
    load = ClassifierFiles.load

    def watched(self: ClassifierFiles, *args: Any) -> Any:
        model = load(self, *args)
        made.append(weakref.ref(model))
        kinds = {type(m).__name__ for n, m in model.named_modules() if n.endswith("_proj")}
        four_bit.append(kinds == {"Linear4bit"})
        return model

    monkeypatch.setattr(ClassifierFiles, "load", watched)
    reward = ClassifierReward(classifier, quantization, keep=keep)
    first = reward.score(backbone, reward_inputs(backbone, SAID))
    second = reward.score(backbone, reward_inputs(backbone, SAID))
    gc.collect()
    assert torch.equal(first, second)
    assert len(made) == (1 if keep else 2)
    assert all((ref() is not None) == keep for ref in made)
    assert set(four_bit) == {quantization == "nf4"}


def test_a_classifier_of_two_outputs(backbone: Backbone, tmp_path: Path) -> None:
    LlamaConfig(num_labels=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 outputs: give label=, one of LABEL_0, LABEL_1"):
        ClassifierReward(str(tmp_path)).prepare(backbone)
    with pytest.raises(FileNotFoundError, match="no model at"):
        ClassifierReward(str(tmp_path / "absent")).prepare(backbone)


@pytest.mark.parametrize("classifier", [TEMPLATE], indirect=True)
@pytest.mark.parametrize("column", ["prompt", "messages", "chosen", "text"])
def test_classifier_and_judge_see_the_turns_of_a_transcript(
    backbone: Backbone, classifier: str, column: str
) -> None:
    """An Anthropic-HH prompt is several turns, whichever column and reward reads it."""
    transcript = "\n\nHuman: w1 w2\n\nAssistant: w3\n\nHuman: w4"
    row = {column: transcript if column == "prompt" else transcript + "\n\nAssistant: w9"}
    if column == "messages":
        row = {column: parse_transcript(row[column])}
    inputs = RewardInputs([transcript], ["w5 w6"], [row], [], [f"{transcript}\n\nAssistant: w5 w6"])

    turns = "user w1 w2 assistant w3 user w4 assistant w5 w6".split()
    place = PreTrainedTokenizerFast.from_pretrained(classifier).get_vocab()
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[BOS, *map(place.get, turns)]])).logits.item()
    score = ClassifierReward(classifier, quantization=None).score(backbone, inputs)
    assert score.item() == pytest.approx(expected, abs=1e-5)

    judge = ScriptedGenerator(lambda messages, seed: "", lambda messages, option: -1.0)
    JudgeReward(judge, question="{conversation} => {answer}").score(backbone, inputs)
    shown = "User: w1 w2\n\nAssistant: w3\n\nUser: w4 => w5 w6"
    assert judge.questions == [[{"role": "user", "content": shown}]]


@pytest.fixture(scope="module")
def trained(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Path]:
    """A reward role with weights of its own, and the folder of its three written forms."""
    backbone = Backbone(tiny_base, lora=LoRA(r=4), dtype="float32").load()
    backbone.add_role("reward", head=True)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.role_parameters("reward"):
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("reward")
    backbone.save_role("reward", folder / "adapter")
    backbone.save_merged("reward", folder / "merged", "float32")
    return backbone, folder


def sampled_inputs(backbone: Backbone, seed: int, samples: int) -> RewardInputs:
    """Random prompts and completions; each is finished by eos, by another token, or cut."""
    draw, eos = random.Random(seed), backbone.tokenizer.eos_token_id
    words = [backbone.tokenizer(word).input_ids[-1] for word in NUMBERS]
    prompts = [draw.choices(words, k=draw.randint(1, 5)) for _ in range(3)]
    each = [p for p in prompts for _ in range(samples)]
    completions = [draw.choices(words, k=draw.randint(1, 6)) for _ in each]
    finished = [draw.random() < 0.7 for _ in each]
    for ids, done in zip(completions, finished, strict=True):
        if done and draw.random() < 0.5:
            ids.append(eos)
    decode = partial(backbone.tokenizer.decode, skip_special_tokens=True)
    return RewardInputs(
        prompts=[decode(ids) for ids in each],
        completions=[decode(ids) for ids in completions],
        rows=[{} for _ in each],
        tokens=[completion_batch(prompts, completions, g) for g in ([0], [1, 2])],
        texts=[decode(p + c) for p, c in zip(each, completions, strict=True)],
        prompt_ids=each,
        completion_ids=completions,
        finished=finished,
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_reward_role_and_its_classifiers_agree(trained: tuple[Backbone, Path], seed: int) -> None:
    """As an adapter and merged: the same token is read, the end token that training read."""
    backbone, folder = trained
    inputs = sampled_inputs(backbone, seed, samples=1 + seed)
    role = RoleReward("reward").score(backbone, inputs)
    for form in ("adapter", "merged"):
        reward = ClassifierReward(str(folder / form), quantization=None, batch_size=4)
        reward.prepare(backbone)
        torch.testing.assert_close(reward.score(backbone, inputs), role, atol=1e-4, rtol=0)
    eos = backbone.tokenizer.eos_token_id
    one = [
        torch.tensor([p + c + [eos] * (done and c[-1] != eos)])
        for p, c, done in zip(
            inputs.prompt_ids, inputs.completion_ids, inputs.finished, strict=True
        )
    ]
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "merged").eval()
    with torch.no_grad():
        expected = torch.cat([plain(input_ids=ids).logits[0] for ids in one])
    torch.testing.assert_close(role, expected, atol=1e-4, rtol=0)


LINE_ENDS = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}[end]\n{% endfor %}"


def test_the_text_of_a_written_reward_ends_where_it_is_read(tiny_base: str) -> None:
    """Plain transformers read a score at the last token, which a template's line end would be."""
    tokenizer = copy.deepcopy(Backbone(tiny_base).tokenizer)
    tokenizer.chat_template = LINE_ENDS
    turns = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    text = reward_tokenizer(tokenizer).apply_chat_template(turns, tokenize=False)
    assert text == f"<user> w1[end]\n<assistant> w2[end]{tokenizer.eos_token}"
    tokenizer.chat_template = LINE_ENDS.replace("[end]", "{{ eos_token }}")
    text = reward_tokenizer(tokenizer).apply_chat_template(turns, tokenize=False)
    assert text == f"<user> w1{tokenizer.eos_token}\n<assistant> w2{tokenizer.eos_token}"
    assert tokenizer.chat_template == LINE_ENDS.replace("[end]", "{{ eos_token }}")


def test_a_classifier_without_a_trained_head(backbone: Backbone, tiny_base: str) -> None:
    with pytest.raises(ValueError, match="holds no weights of a classification head"):
        ClassifierReward(tiny_base, None, label="LABEL_0").prepare(backbone)


def test_an_output_is_chosen_by_its_name(backbone: Backbone, tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(backbone.tokenizer), hidden_size=32, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=2, label2id={"kind": 0, "true": 1, "long": 2},
        id2label={0: "kind", 1: "true", 2: "long"}, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    inputs = reward_inputs(backbone, SAID)
    scores = {}
    for label in ("kind", "true", "long"):
        reward = ClassifierReward(str(tmp_path), None, label=label)
        reward.prepare(backbone)
        scores[label] = reward.score(backbone, inputs)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for i, text in enumerate(inputs.texts):
        ids = [*backbone.tokenizer(text).input_ids, backbone.tokenizer.eos_token_id]
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids])).logits[0]
        for output, label in enumerate(scores):
            assert scores[label][i].item() == pytest.approx(expected[output].item(), abs=1e-5)
    with pytest.raises(ValueError, match="no output 'fair': give one of kind, true, long"):
        ClassifierReward(str(tmp_path), None, label="fair").prepare(backbone)


def test_a_text_that_is_too_long_loses_its_beginning(
    backbone: Backbone, classifier: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = LlamaForSequenceClassification.from_pretrained(classifier)
    model.config.max_position_embeddings = 6
    model.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(classifier)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    score = ClassifierReward(str(tmp_path), None).score(backbone, reward_inputs(backbone, SAID))
    assert "takes 6 tokens: 2 of 3 texts lose their beginning" in caplog.text
    ids = tokenizer("w5 w6 w7 w8 w9 [eos]").input_ids[-6:]
    with torch.no_grad():
        expected = model.eval()(input_ids=torch.tensor([ids])).logits[0, 0]
    assert score[1].item() == pytest.approx(expected.item(), abs=1e-5)


# ---- in a run ----


def length(prompts: list[str], completions: list[str], rows: list[dict]) -> list[float]:
    return [float(len(text.split())) for text in completions]


def test_a_weighted_sum_logs_each(runs: Runs, classifier: str) -> None:
    rewards = [FunctionReward(length, weight=2.0), ClassifierReward(classifier, None, weight=-0.5)]
    module = PPOModule(
        runs.backbone(), rewards, sampling=Sampling(max_new_tokens=5), updates=UpdateSchedule(1, 1)
    )
    data = PromptData(number_pairs(8), val_fraction=0.0, batch_size=4)
    runs.trainer(max_steps=1, max_epochs=-1).fit(module, data)
    (file,) = (runs.folder / "logs").rglob("metrics.csv")
    (row,) = [r for r in csv.DictReader(file.open()) if r["objective/scores"]]
    by_name = [float(row[f"objective/scores/{name}"]) for name in ("length", "judge")]
    assert by_name[1] != 0
    assert float(row["objective/scores"]) == pytest.approx(2 * by_name[0] - 0.5 * by_name[1])
    table = module.rollout_table()
    assert table.columns[-2:] == ["length", "judge"]
    said = [r[table.columns.index("completion")] for r in table.rows]
    assert [r[-2] for r in table.rows] == length([], said, [])
    texts = [(r[0], r[1]) for r in table.rows]
    judged = torch.tensor([r[-1] for r in table.rows])
    finished = [r[table.columns.index("finished")] for r in table.rows]
    torch.testing.assert_close(
        judged, torch.tensor(expected(classifier, texts, finished)), atol=1e-4, rtol=1e-4
    )


SUMS = [
    {"question": f"w{a} w{b}", "answer": f"First w{a} and then w{b} more.\n#### {a + b}"}
    for a, b in [(1, 2), (3, 4), (5, 6), (7, 8)]
]


def test_rows_reach_the_function(runs: Runs) -> None:
    """A checkable answer: the number the worked solution ends in, beside the number said."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def correct(prompts: list[str], completions: list[str], rows: list[dict]) -> list[float]:
        seen.extend(zip(prompts, rows, strict=True))
        said = [re.findall(r"\d+", text)[-1:] for text in completions]
        return [float(n == [row["answer"]]) for n, row in zip(said, rows, strict=True)]

    sampling = Sampling(max_new_tokens=3, num_samples=2)
    module = PPOModule(runs.backbone(), correct, sampling=sampling, updates=UpdateSchedule(1, 1))
    runs.trainer(max_steps=1, max_epochs=-1).fit(
        module, PromptData(SUMS, val_fraction=0.0, batch_size=4)
    )
    wanted = {row["question"]: row["answer"].rsplit(" ", 1)[1] for row in SUMS}
    assert len(seen) == 8 and {prompt for prompt, _ in seen} == set(wanted)
    assert all(row["answer"] == wanted[prompt] for prompt, row in seen)
    inputs = [RewardInputs([r["question"]], [f"w1 w{a}"], [{"answer": a}], [], [""])
                for r, a in zip(SUMS, wanted.values(), strict=True)]  # fmt: skip
    scores = [FunctionReward(correct).score(module.backbone, a).item() for a in inputs]
    assert scores == [1.0] * 4
