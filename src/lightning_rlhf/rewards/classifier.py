"""A reward from a sequence classifier, such as a published reward model."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from lightning_rlhf.data.sandbox import bounded
from lightning_rlhf.models import loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.rewards.base import Reward, RewardInputs
from lightning_rlhf.text.messages import Prompt, answered, begun_turn


class ClassifierReward(Reward):
    """Score with a sequence classifier of one output, on a base of its own.

    It is in memory only while it scores. Texts are tokenized by its own tokenizer, with its chat
    template where it has one.

    Args:
        name_or_path: a hub id or a folder.
        quantization: "nf4" holds it in 4 bits.
        batch_size: texts per forward.
        keep: leave it in memory between rollouts.
        weight: factor in a sum of several rewards.
    """

    def __init__(
        self,
        name_or_path: str,
        quantization: loading.Quantization | None = "nf4",
        batch_size: int = 16,
        *,
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
        """Check its configuration.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: it has more than one output.
        """
        outputs = AutoConfig.from_pretrained(loading.resolve(self.name_or_path)).num_labels
        if outputs != 1:
            raise ValueError(
                f"{self.name_or_path} has {outputs} outputs and a reward has one: give a "
                "classifier with num_labels=1, or a function that picks an output"
            )

    @torch.no_grad()
    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        device = backbone.base.device
        tokenizer = AutoTokenizer.from_pretrained(loading.resolve(self.name_or_path))
        # padding on the right shifts no position; a long text loses its beginning, not its answer
        tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = self._load(device, tokenizer.pad_token_id) if self._held is None else self._held
        templated = bool(tokenizer.chat_template)
        texts = inputs.texts
        if templated:
            each = zip(inputs.conversations(), inputs.completions, strict=True)
            texts = [_rendered(tokenizer, *one) for one in each]
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


def _rendered(tokenizer: Any, prompt: Prompt, completion: str) -> str:
    """Render a prompt and its answer with the classifier's own template."""
    begun = begun_turn(prompt) is not None
    turns = answered(prompt, completion.rstrip() if begun else completion.strip())
    with bounded():
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    return text
