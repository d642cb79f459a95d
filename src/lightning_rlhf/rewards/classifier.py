"""A reward from a sequence classifier, such as a published reward model."""

from __future__ import annotations

import gc
import logging
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from lightning_rlhf.data.sandbox import bounded
from lightning_rlhf.models import loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.classifier import ClassifierFiles
from lightning_rlhf.models.export import SCORES_AT_EOS
from lightning_rlhf.rewards.base import Reward, RewardInputs
from lightning_rlhf.text.messages import Prompt, answered, begun_turn

log = logging.getLogger(__name__)


class ClassifierReward(Reward):
    """Score with one output of a sequence classifier, on a base of its own.

    It is in memory only while it scores. It reads each text as it was trained on it. A classifier
    that ``Backbone.save_merged`` or ``save_role`` wrote takes the tokens of the completion, its end
    token included. Any other tokenizes the text by its own tokenizer, with its chat template; where
    there is none, a finished completion ends with its end token. A text that is too long loses its
    beginning.

    Args:
        name_or_path: a hub id or a folder, of a whole classifier or of a PEFT adapter.
        quantization: "nf4" holds it in 4 bits.
        batch_size: texts per forward.
        label: the output to use, by its name in the classifier's config; None if it has one.
        keep: leave it in memory between rollouts.
        weight: factor in a sum of several rewards.
    """

    def __init__(
        self,
        name_or_path: str,
        quantization: loading.Quantization | None = "nf4",
        batch_size: int = 16,
        *,
        label: str | None = None,
        keep: bool = False,
        weight: float = 1.0,
    ):
        super().__init__(name_or_path.rstrip("/").rsplit("/", 1)[-1], weight)
        self.name_or_path = name_or_path
        self.quantization = quantization
        self.batch_size = batch_size
        self.label = label
        self.keep = keep
        self._held: Any = None
        self._cut = False  # a text was too long, which is said once

    def prepare(self, backbone: Backbone) -> None:
        """Check its configuration.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: it has several outputs and no label names one, or no trained head.
        """
        files = ClassifierFiles.find(self.name_or_path)
        files.output(self.label)
        files.check_head()

    @torch.no_grad()
    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        files = ClassifierFiles.find(self.name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(files.tokenizer)
        model = self._held
        if model is None:
            model = files.load(self.quantization, backbone.base.device)
        texts = _token_ids(tokenizer, backbone, inputs)
        # the score is read at the last token that is not padding, so no text may end with it
        pad = min(set(range(len(texts) + 1)) - {ids[-1] for ids in texts})
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        model.config.pad_token_id = model.config.get_text_config().pad_token_id = pad
        limit = min(tokenizer.model_max_length, files.context_length or len(max(texts, key=len)))
        if not self._cut and (long := sum(len(ids) > limit for ids in texts)):
            self._cut = True
            log.warning(
                "%s takes %d tokens: %d of %d texts lose their beginning", self.name, limit, long,
                len(texts),
            )  # fmt: skip
        scores = []
        output = files.output(self.label)
        for i in range(0, len(texts), self.batch_size):
            batch = {"input_ids": [ids[-limit:] for ids in texts[i : i + self.batch_size]]}
            # padding on the right shifts no position
            tokens = tokenizer.pad(batch, padding_side="right", return_tensors="pt")
            logits = model(**tokens.to(backbone.base.device)).logits
            scores.append(logits.float()[:, output])
        self._held = model if self.keep else None
        del model
        gc.collect()
        return torch.cat(scores)


def _token_ids(tokenizer: Any, backbone: Backbone, inputs: RewardInputs) -> list[list[int]]:
    """Tokenize prompts with their completions as the classifier was trained on them."""
    same = tokenizer.get_vocab() == backbone.tokenizer.get_vocab()
    if tokenizer.init_kwargs.get(SCORES_AT_EOS) and same:
        ended = inputs.ended_ids(tokenizer.eos_token_id)
        return [[*p, *c] for p, c in zip(inputs.prompt_ids, ended, strict=True)]
    if tokenizer.chat_template:
        each = zip(inputs.conversations(), inputs.completions, strict=True)
        texts = [_rendered(tokenizer, *one) for one in each]
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
        return ids
    ids = tokenizer(inputs.texts).input_ids
    finished = inputs.finished or [True] * len(ids)
    return [
        [*one, tokenizer.eos_token_id] if done and _lacks_end(tokenizer, one) else one
        for one, done in zip(ids, finished, strict=True)
    ]


def _lacks_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> bool:
    """Tell whether a text does not end with the tokenizer's end or separator token."""
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
    return tokenizer.eos_token_id is not None and ids[-1] not in ends


def _rendered(tokenizer: Any, prompt: Prompt, completion: str) -> str:
    """Render a prompt and its answer with the classifier's own template."""
    begun = begun_turn(prompt) is not None
    turns = answered(prompt, completion.rstrip() if begun else completion.strip())
    with bounded():
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    return text
