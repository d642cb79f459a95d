"""A reward from a judge's rating: no reward model is trained (d-RLAIF, arXiv 2309.00267)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.rating import RATE, rate
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.generators.role import RoleGenerator
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.rewards.base import Reward, RewardInputs


class JudgeReward(Reward):
    """Score with a judge: its expected rating from 1 to 10, rescaled to [-1, 1].

    Args:
        judge: a role of the backbone, whose weights come from ``Backbone(adapters={...})``, else
            the bare base; or a model elsewhere.
        question: the request, with {conversation} and {answer}.
        end: text after the number in the judge's reply, see ``constitution.rating.rate``.
        template: how messages become text, as in the data modules.
        weight: factor in a sum of several rewards.
    """

    def __init__(
        self,
        judge: str | Generator = "judge",
        question: str = RATE,
        end: str = ".",
        *,
        template: Template = "auto",
        weight: float = 1.0,
    ):
        super().__init__(judge if isinstance(judge, str) else "judge", weight)
        self.judge = judge
        self.question = question
        self.end = end
        self.template = template
        self._asked: Generator | None = None

    def prepare(self, backbone: Backbone) -> None:
        """Freeze the judge's role."""
        if isinstance(self.judge, str):
            backbone.add_role(self.judge, trainable=False)

    @torch.no_grad()
    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        if self._asked is None:
            judge = self.judge
            self._asked = (
                RoleGenerator(backbone, judge, Sampling(), template=self.template)
                if isinstance(judge, str)
                else judge
            )
        ratings = rate(
            self._asked, inputs.conversations(), inputs.completions, self.question, self.end
        )
        return torch.tensor(ratings, device=backbone.base.device)
