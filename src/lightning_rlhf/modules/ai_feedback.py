"""Constitutional AI, preference stage: a judge's soft labels."""

from __future__ import annotations

import json
import re
from typing import Any

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.principles import Constitution
from lightning_rlhf.constitution.sampled import sampled_pairs
from lightning_rlhf.constitution.self_critique import pairs as pairs_of
from lightning_rlhf.constitution.verdicts import Verdict
from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.writing import WritingModule

SAMPLED = "sampled"


class AIFeedbackModule(WritingModule):
    """Pairs of answers, judged by a model in both orders (arXiv 2212.08073, sec. 4; 2309.00267).

    ``predict`` over ``PromptData`` writes rows that ``PreferenceData`` reads, with soft labels.
    Where no verdict can be had there is no hard label, and the report counts why.

    Args:
        backbone: the base and its roles.
        feedback: the question, the principles, what becomes of the undecided; None for defaults.
        pairs: "sampled" has the generator answer each prompt twice, as in the paper; the others
            read chains that ``SelfCritiqueModule`` wrote: "revision_vs_draft", or "rounds_K_J".
        generator: who answers: a role of the backbone, or a model elsewhere.
        judge: who judges, likewise.
        sampling: how a role answers, and reasons.
        template: how messages become text, as in the data modules.
        journal: the file of answers, see ``WritingModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        feedback: AIFeedback | None = None,
        pairs: str = SAMPLED,
        generator: str | Generator = POLICY,
        judge: str | Generator = POLICY,
        sampling: Sampling = Sampling(max_new_tokens=256),
        template: str = "auto",
        journal: str | None = None,
    ):
        super().__init__(backbone, sampling, template, journal)
        self.feedback = feedback or AIFeedback()
        self.pairs = pairs
        self.generator = generator
        self.judge = judge
        self._kind = _kind(pairs)
        self._verdicts: list[Verdict] = []

    @property
    def constitution(self) -> Constitution:
        return self.feedback.constitution

    def asked(self) -> list[str | Generator]:
        return [self.judge, self.generator] if self._kind is None else [self.judge]

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._verdicts = []

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """The labelled pairs of a batch of prompts, or of chains."""
        rows = self.rows_of(batch)
        if self._kind is None:
            pairs = sampled_pairs(self.answering(self.generator), rows, self.feedback.seed)
        else:
            pairs = pairs_of([Chain.from_row(row) for row in rows], self._kind)
        verdicts = self.feedback.label(self.answering(self.judge), pairs)
        self._verdicts += verdicts
        return self.feedback.rows(verdicts)

    def on_predict_end(self) -> None:
        """The judge's report, in words and as ``feedback.json`` beside the rows."""
        super().on_predict_end()
        if not self._verdicts:
            return
        report = self.feedback.report(self._verdicts)
        self.leave("feedback.json", json.dumps(report._asdict(), indent=1))
        self.print(str(report))


def _kind(pairs: str) -> Any:
    """What ``constitution.self_critique.pairs`` calls it; None for sampled pairs."""
    if pairs == SAMPLED:
        return None
    if pairs == "revision_vs_draft":
        return pairs
    found = re.fullmatch(r"rounds_(\d+)_(\d+)", pairs)
    if found is None:
        raise ValueError(
            f'pairs must be "sampled", "revision_vs_draft" or "rounds_K_J", got {pairs!r}'
        )
    return ("rounds", int(found[1]), int(found[2]))
