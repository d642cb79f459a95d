"""A role of the backbone as a generator: what the constitution's loop and its labeller ask."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

import torch

from lightning_rlhf.batches import cut_by_budget, to_device
from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.models.generation import answer
from lightning_rlhf.models.sampler import HFSampler, Sampling
from lightning_rlhf.text.messages import Message

OPTION_TOKENS = 4096  # of prompts and options in one forward


class RoleGenerator:
    """Answers as a role, each request by its own seed.

    What a request gets does not depend on what it is batched with, but for rounding: a number that
    falls within a millionth of the edge between two tokens may fall on its other side.

    Args:
        backbone: loaded.
        role: who answers.
        sampling: how; one sample to a request.
        template: how messages become text, as in the data modules.
    """

    def __init__(
        self,
        backbone: Backbone,
        role: str,
        sampling: Sampling = Sampling(max_new_tokens=256),
        template: str = "auto",
    ):
        if sampling.num_samples != 1:
            raise ValueError(
                f"a request has one answer: give Sampling(num_samples=1), not {sampling}"
            )
        self.backbone = backbone
        self.role = role
        self.sampling = sampling
        self.chat = ChatTemplate(backbone.tokenizer, template)
        self._identity = {
            "model": backbone.public_name,
            "role": role,
            "weights": weights_digest(backbone.forward_weights(role)).hex()[:16],
            "template": hashlib.sha256((self.chat.jinja or template).encode()).hexdigest()[:16],
            "sampling": str(asdict(sampling)),
        }

    @property
    def identity(self) -> dict[str, str]:
        return self._identity

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [self._prompt(r.messages) for r in requests]
        seeds = [r.seed for r in requests]
        said = HFSampler().sample(self.backbone, self.role, prompts, self.sampling, seeds)
        return [
            Completion(self._text(answer(self.backbone, sample)), sample.finished)
            for sample in said
        ]

    @torch.no_grad()
    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Each prompt goes through the model once, its options behind it."""
        known = [self.chat.encode_begun(*_begun(messages), options) for messages in prompts]
        lengths = [len(ids) + sum(map(len, tails)) for ids, tails in known]
        found: list[list[float]] = []
        for part in cut_by_budget(lengths, OPTION_TOKENS):
            ids = [known[i][0] for i in part]
            tails = [tail for i in part for tail in known[i][1]]
            tokens = to_device(
                completion_batch(ids, tails, range(len(ids))), self.backbone.base.device
            )
            logprobs = self.backbone.logprobs(tokens, self.role)
            sums = segment_sum(logprobs, tokens.completion_index, tokens.completions)
            found += sums.reshape(len(ids), len(options)).tolist()
        return found

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        asked, begun = _begun(messages)
        return self.chat.encode_begun(asked, begun)[0]

    def _text(self, ids: list[int]) -> str:
        text = self.backbone.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text.strip()


def _begun(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The turns before the answer, and what of it is there already."""
    turns = list(messages)
    if turns[-1]["role"] != "assistant":
        return turns, ""
    return turns[:-1], turns[-1]["content"]
