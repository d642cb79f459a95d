"""Constitutional AI, supervised stage: draft, critique, revise."""

from __future__ import annotations

from typing import Any

from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.principles import Constitution
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.writing import WritingModule


class SelfCritiqueModule(WritingModule):
    """Let a model critique and revise its answers by a constitution (arXiv 2212.08073, sec. 3).

    ``predict`` over ``PromptData`` writes a row for each prompt: the draft, and for each round the
    principle, critique and revision. Later stages train on these rows.

    Args:
        backbone: the base and its roles.
        loop: rounds, principles, examples, seed; None for the defaults.
        generator: the model that answers: a role of the backbone, or a model elsewhere.
        sampling: how a role answers.
        template: how messages become text, as in the data modules.
        journal: the file of answers, see ``WritingModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        loop: SelfCritique | None = None,
        generator: str | Generator = POLICY,
        *,
        sampling: Sampling = Sampling(max_new_tokens=256),
        template: Template = "auto",
        journal: str | None = None,
    ):
        super().__init__(backbone, sampling, template, journal=journal)
        self.loop = loop or SelfCritique()
        self.generator = generator

    @property
    def constitution(self) -> Constitution:
        return self.loop.constitution

    def generators(self) -> list[str | Generator]:
        return [self.generator]

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Make the chains of a batch of prompts."""
        chains = self.loop.run(self.journaled(self.generator), self.rows_of(batch))
        return [chain.to_row() for chain in chains]
