"""A role of the backbone as the generator of self-critique and AI feedback."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

import torch

from lightning_rlhf.batches import cut_by_budget, to_device
from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.models.generation import answer
from lightning_rlhf.models.sampler import HFSampler, Sampling
from lightning_rlhf.text.messages import Message

OPTION_TOKENS = 4096  # tokens of prompts and options per forward


class RoleGenerator:
    """Answer as a role, each request by its own seed.

    An answer depends on the other requests of its batch by rounding only: a number that falls
    within a millionth of the edge between two tokens may fall on its other side.

    Args:
        backbone: loaded.
        role: answers the requests.
        sampling: options, with one sample per request.
        template: converts messages to text, as in the data modules.
    """

    def __init__(
        self,
        backbone: Backbone,
        role: str,
        sampling: Sampling = Sampling(max_new_tokens=256),
        *,
        template: Template = "auto",
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
            "template": hashlib.sha256(self.chat.identity.encode()).hexdigest()[:16],
            "sampling": str(asdict(sampling)),
        }

    @property
    def identity(self) -> dict[str, str]:
        return self._identity

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [self._prompt(r.messages) for r in requests]
        seeds = [r.seed for r in requests]
        samples = HFSampler().sample(self.backbone, self.role, prompts, self.sampling, seeds)
        return [
            Completion(self._text(answer(self.backbone, sample)), sample.finished)
            for sample in samples
        ]

    @torch.no_grad()
    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Score options; each prompt runs through the model once, followed by its options."""
        encoded = [self.chat.encode_begun(*_begun(messages), options) for messages in prompts]
        lengths = [len(ids) + sum(map(len, tails)) for ids, tails in encoded]
        scores: list[list[float]] = []
        for part in cut_by_budget(lengths, OPTION_TOKENS):
            ids = [encoded[i][0] for i in part]
            tails = [tail for i in part for tail in encoded[i][1]]
            tokens = to_device(
                completion_batch(ids, tails, range(len(ids))), self.backbone.base.device
            )
            logprobs = self.backbone.logprobs(tokens, self.role)
            sums = segment_sum(logprobs, tokens.completion_index, tokens.completions)
            scores += sums.reshape(len(ids), len(options)).tolist()
        return scores

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        asked, begun = _begun(messages)
        return self.chat.encode_begun(asked, begun)[0]

    def _text(self, ids: list[int]) -> str:
        text = self.backbone.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text.strip()


def _begun(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """Split messages into the turns before the answer, and the beginning of the answer."""
    turns = list(messages)
    if turns[-1]["role"] != "assistant":
        return turns, ""
    return turns[:-1], turns[-1]["content"]
