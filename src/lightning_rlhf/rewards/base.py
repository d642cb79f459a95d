"""What scores a completion: a role of the backbone, a model on another base, or a function."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

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
    texts: list[str]  # C prompts with their completions, joined as their tokens are


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
        if self.role not in backbone.adapters and self.role not in backbone.heads:
            raise ValueError(
                f"role {self.role!r} has no head to score with: give a role trained by RewardModule"
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
        for score, completion in zip(scores, answers.completions, strict=True):
            if score is None or not math.isfinite(float(score)):
                raise ValueError(
                    f"the reward {self.name} gave {score} for {completion[:60]!r}: "
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

    def prepare(self, backbone: Backbone) -> None:
        """Look at its configuration.

        Raises:
            FileNotFoundError: no such model.
            ValueError: more than one output.
        """
        outputs = AutoConfig.from_pretrained(loading.resolve(self.name_or_path)).num_labels
        if outputs != 1:
            raise ValueError(
                f"{self.name_or_path} has {outputs} outputs and a reward has one: give a "
                "classifier with num_labels=1, or a function that picks an output"
            )

    @torch.no_grad()
    def score(self, backbone: Backbone, answers: Answers) -> Tensor:
        device = backbone.base.device
        tokenizer = AutoTokenizer.from_pretrained(loading.resolve(self.name_or_path))
        # padding behind moves no position; what is too long loses its beginning, not the answer
        tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = self._load(device, tokenizer.pad_token_id) if self._held is None else self._held
        templated = bool(tokenizer.chat_template)
        texts = answers.texts
        if templated:
            each = zip(answers.prompts, answers.completions, answers.rows, strict=True)
            texts = [_conversation(tokenizer, *one) for one in each]
        scores = []
        for i in range(0, len(texts), self.batch_size):
            tokens = tokenizer(
                texts[i : i + self.batch_size], return_tensors="pt", padding=True, truncation=True,
                add_special_tokens=not templated,  # a template writes its own
            )  # fmt: skip
            scores.append(model(**tokens.to(device)).logits.float()[:, 0])
        self._held = model if self.keep else None
        del model
        gc.collect()
        return torch.cat(scores)

    def _load(self, device: torch.device, pad_id: int) -> Any:
        kwargs: dict[str, Any] = {"dtype": loading.torch_dtype("auto"), "num_labels": 1}
        if self.quantization == "nf4":
            kwargs["quantization_config"] = loading.nf4_config(kwargs["dtype"])
        if device.type != "cpu":
            kwargs["device_map"] = {"": device}
        model = AutoModelForSequenceClassification.from_pretrained(
            loading.resolve(self.name_or_path), **kwargs
        )
        model.config.pad_token_id = pad_id
        loading.guard_4bit_on_cpu(model)
        return model.eval()


def _conversation(tokenizer: Any, prompt: str, completion: str, row: dict[str, Any]) -> str:
    """Prompt and answer as the classifier's own template has them; turns where the row has some."""
    said = row.get("prompt") or row.get("messages") or prompt
    turns = said if isinstance(said, list) else [{"role": "user", "content": said}]
    if turns[-1]["role"] == "assistant":
        turns = turns[:-1]  # an answer not asked for, which no prompt holds either
    turns = [*turns, {"role": "assistant", "content": completion.strip()}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
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
