"""What scores a completion: a role of the backbone, a model on another base, or a function."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.models import loading
from lightning_rlhf.models.backbone import Backbone

Score = Callable[[list[str], list[str], list[dict[str, Any]]], Sequence[float]]


class Answers(NamedTuple):
    """Completions to be scored, those of one prompt together."""

    prompts: list[str]  # C texts, special tokens left out
    completions: list[str]  # C texts, special tokens left out
    rows: list[dict[str, Any]]  # C rows of the data, as they were read
    tokens: list[TokenBatch]  # the same completions, cut into batches that fit


class Reward:
    """A source of scores.

    Args:
        name: by which it is logged.
        weight: what its scores are multiplied by in a sum of several.
    """

    def __init__(self, name: str, weight: float):
        self.name = name
        self.weight = weight

    def prepare(self, backbone: Backbone) -> None:
        """Look, before a run starts, whether it will be able to score."""

    def score(self, backbone: Backbone, answers: Answers) -> Tensor:
        """(C,) fp32."""
        raise NotImplementedError


class RoleReward(Reward):
    """A reward role trained by ``RewardModule``, read at each completion's last token.

    Args:
        role: its name; its weights come from ``Backbone(adapters={"reward": folder})``, or are on
            the backbone already.
        weight: in a sum of several.
    """

    def __init__(self, role: str = "reward", weight: float = 1.0):
        super().__init__(role, weight)
        self.role = role

    def prepare(self, backbone: Backbone) -> None:
        """Freeze the role.

        Raises:
            ValueError: the backbone has no such role, or it has no head.
        """
        if self.role not in backbone.roles and self.role not in backbone.adapters:
            raise ValueError(
                f"no role {self.role!r} to score with: train one with RewardModule and give "
                f'Backbone(adapters={{"{self.role}": folder}}), or another reward'
            )
        backbone.add_role(self.role, trainable=False, head=True)

    @torch.no_grad()
    def score(self, backbone: Backbone, answers: Answers) -> Tensor:
        return torch.cat([backbone.scores(tokens, self.role) for tokens in answers.tokens])


class FunctionReward(Reward):
    """Your own function of texts and rows.

    Args:
        function: ``(prompts, completions, rows) -> scores``, one number to each completion; in YAML
            its dotted name.
        weight: in a sum of several.
    """

    def __init__(self, function: Score, weight: float = 1.0):
        super().__init__(getattr(function, "__name__", type(function).__name__), weight)
        self.function = function

    def score(self, backbone: Backbone, answers: Answers) -> Tensor:
        """See ``Reward``.

        Raises:
            ValueError: not one finite number to each completion.
        """
        scores = list(self.function(answers.prompts, answers.completions, answers.rows))
        if len(scores) != len(answers.completions):
            raise ValueError(
                f"the reward {self.name} gave {len(scores)} scores for "
                f"{len(answers.completions)} completions"
            )
        for i, score in enumerate(scores):
            if not math.isfinite(float(score)):
                raise ValueError(
                    f"the reward {self.name} gave {score} for {answers.completions[i][:60]!r}: "
                    "scores are finite numbers"
                )
        return torch.tensor([float(s) for s in scores], device=backbone.base.device)


class ClassifierReward(Reward):
    """A sequence classifier with one output, on a base of its own, held only while it scores.

    Texts are tokenised anew, by its chat template where it has one.

    Args:
        name_or_path: a hub id or a folder.
        quantization: "nf4" holds it in 4 bits.
        batch_size: texts to a forward.
        keep: leave it in memory between rollouts.
        weight: in a sum of several.
    """

    def __init__(
        self,
        name_or_path: str,
        quantization: loading.Quantization | None = "nf4",
        batch_size: int = 16,
        keep: bool = False,
        weight: float = 1.0,
    ):
        super().__init__(name_or_path.rstrip("/").rsplit("/", 1)[-1], weight)
        self.name_or_path = name_or_path
        self.quantization = quantization
        self.batch_size = batch_size
        self.keep = keep
        self._held: Any = None

    @torch.no_grad()
    def score(self, backbone: Backbone, answers: Answers) -> Tensor:
        device = backbone.base.device
        tokenizer = AutoTokenizer.from_pretrained(self.name_or_path)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = self._held or self._load(device, tokenizer.pad_token_id)
        texts = [
            _as_text(tokenizer, *pair)
            for pair in zip(answers.prompts, answers.completions, answers.rows, strict=True)
        ]
        scores = [
            model(**tokenizer(texts[i : i + self.batch_size], return_tensors="pt",
                              padding=True, truncation=True).to(device)).logits.float()[:, 0]
            for i in range(0, len(texts), self.batch_size)
        ]  # fmt: skip
        self._held = model if self.keep else None
        del model
        gc.collect()
        return torch.cat(scores)

    def _load(self, device: torch.device, pad_id: int) -> Any:
        kwargs: dict[str, Any] = {"dtype": loading.torch_dtype("auto"), "num_labels": 1}
        if self.quantization == "nf4":
            kwargs["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=kwargs["dtype"],
            )
        if device.type != "cpu":
            kwargs["device_map"] = {"": device}
        model = AutoModelForSequenceClassification.from_pretrained(self.name_or_path, **kwargs)
        model.config.pad_token_id = pad_id
        loading.guard_4bit_on_cpu(model)
        return model.eval()


def _as_text(tokenizer: Any, prompt: str, completion: str, row: dict[str, Any]) -> str:
    """A conversation as the classifier's own template has it, else prompt and completion."""
    said = row.get("prompt", prompt)
    if not tokenizer.chat_template:
        return prompt + completion
    messages = said if isinstance(said, list) else [{"role": "user", "content": said}]
    messages = [*messages, {"role": "assistant", "content": completion.strip()}]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    return text


def as_rewards(reward: str | Score | Reward | list[Reward]) -> list[Reward]:
    """One or several rewards, a role by its name, a function as it is.

    Raises:
        ValueError: none, or two that would be logged under one name.
    """
    if isinstance(reward, str):
        return [RoleReward(reward)]
    if isinstance(reward, Reward):
        return [reward]
    if isinstance(reward, list):
        names = [r.name for r in reward]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"rewards must be some, each of another name; got {names}")
        return reward
    return [FunctionReward(reward)]
