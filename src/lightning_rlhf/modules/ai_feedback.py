"""Constitutional AI, preference stage: a judge's soft labels."""

from __future__ import annotations

import json
import re
from typing import Any

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.pairs import PairKind, sampled_pairs
from lightning_rlhf.constitution.pairs import pairs as pairs_of
from lightning_rlhf.constitution.principles import Constitution
from lightning_rlhf.constitution.verdicts import Verdict
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.writing import WritingModule
from lightning_rlhf.text.display import printable

SAMPLED = "sampled"


class AIFeedbackModule(WritingModule):
    """Label pairs of answers by a judge, in both orders (arXiv 2212.08073, sec. 4; 2309.00267).

    ``predict`` over ``PromptData`` writes rows with soft labels for ``PreferenceData``. Undecided
    pairs get 0.5 or are left out; the report counts them by reason.

    Args:
        backbone: the base and its roles.
        feedback: the question, the principles, the treatment of undecided pairs; None for defaults.
        pairs: "sampled" lets the generator answer each prompt twice, as in the paper; the others
            read chains that ``SelfCritiqueModule`` wrote: "revision_vs_draft", or "rounds_K_J".
        generator: the model that answers: a role of the backbone, or a model elsewhere.
        judge: the model that judges, likewise.
        sampling: how a role answers, and reasons.
        template: how messages become text, as in the data modules.
        journal: the file of answers, see ``WritingModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        feedback: AIFeedback | None = None,
        pairs: str = SAMPLED,
        *,
        generator: str | Generator = POLICY,
        judge: str | Generator = POLICY,
        sampling: Sampling = Sampling(max_new_tokens=256),
        template: Template = "auto",
        journal: str | None = None,
    ):
        super().__init__(backbone, sampling, template, journal=journal)
        self.feedback = feedback or AIFeedback()
        self.pairs = pairs
        self.generator = generator
        self.judge = judge
        self._kind = _kind(pairs)
        self._verdicts: list[Verdict] = []

    @property
    def constitution(self) -> Constitution:
        return self.feedback.constitution

    def generators(self) -> list[str | Generator]:
        return [self.judge, self.generator] if self._kind is None else [self.judge]

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._verdicts = []

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Label the pairs of a batch of prompts, or of chains."""
        rows = self.rows_of(batch)
        if self._kind is None:
            pairs = sampled_pairs(self.journaled(self.generator), rows, self.feedback.seed)
        else:
            pairs = pairs_of([Chain.from_row(row) for row in rows], self._kind)
        verdicts = self.feedback.label(self.journaled(self.judge), pairs)
        self._verdicts += verdicts
        return self.feedback.rows(verdicts)

    def on_predict_end(self) -> None:
        """Print the judge's report, and write it as ``feedback.json`` beside the rows."""
        super().on_predict_end()
        if not self._verdicts:
            return
        report = self.feedback.report(self._verdicts)
        self.write_artifact("feedback.json", json.dumps(report._asdict(), indent=1))
        self.print(printable(str(report)))


def _kind(pairs: str) -> PairKind | None:
    """Parse the ``kind`` of ``constitution.pairs.pairs``; None for sampled pairs."""
    if pairs == SAMPLED:
        return None
    if pairs == "revision_vs_draft":
        return "revision_vs_draft"
    numbers = re.fullmatch(r"rounds_(\d+)_(\d+)", pairs)
    if numbers is None:
        raise ValueError(
            f'pairs must be "sampled", "revision_vs_draft" or "rounds_K_J", got {pairs!r}'
        )
    return ("rounds", int(numbers[1]), int(numbers[2]))
