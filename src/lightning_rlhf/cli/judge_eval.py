"""``lightning-rlhf judge-eval``: measure a judge against human labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from rich.text import Text

from lightning_rlhf.cli.arguments import call_with
from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.data import cells
from lightning_rlhf.data.datamodules import PreferenceData
from lightning_rlhf.data.formats import read_pair
from lightning_rlhf.data.gathering import gathered
from lightning_rlhf.data.layouts import SIDES, recognize
from lightning_rlhf.data.sources import load_rows
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.evaluation.judge_eval import JudgeReport, judge_eval
from lightning_rlhf.generators.journal import Journaled
from lightning_rlhf.generators.role import RoleGenerator
from lightning_rlhf.models.backbone import POLICY
from lightning_rlhf.models.loading import DType, Quantization
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.models.saved import load_role
from lightning_rlhf.reporting.calibration import draw_calibration
from lightning_rlhf.text.display import PrintableConsole
from lightning_rlhf.text.jsonl import write_rows
from lightning_rlhf.text.messages import BadRow, begun_turn


def main(args: list[str]) -> None:
    """Read the arguments of ``evaluate_judge`` and call it."""
    call_with(evaluate_judge, "judge-eval", args)


def evaluate_judge(
    source: str,
    judge: str,
    feedback: AIFeedback | None = None,
    folder: str = "runs/judge",
    format: str = "auto",
    max_rows: int | None = None,
    quantization: Quantization | None = None,
    dtype: DType = "auto",
    max_new_tokens: int = 256,
    template: Template = "auto",
) -> JudgeReport:
    """Measure a judge on pairs with human labels, before it labels anything.

    Args:
        source: preference rows of any known layout.
        judge: a folder that ``fit`` wrote, or any model.
        feedback: how the judge is asked; use the same when it labels.
        folder: gets the verdicts, ``report.json`` and ``calibration.png``, and a journal of all
            answers: a killed evaluation resumes where it stopped.
        format: of the rows, a name of ``data.layouts``.
        max_rows: read at most this many.
        quantization: hold the judge in 4 bits.
        dtype: of the judge.
        max_new_tokens: of its reasoning, if it reasons.
        template: how messages become text, as in the data modules.
    """
    console, home = PrintableConsole(), Path(folder)
    rows, dropped = human_pairs(source, format, max_rows)
    console.print(f"{source}: {len(rows):,} pairs that people decided, {dropped:,} left out")
    backbone = load_role(judge, None, quantization, dtype)
    generator = RoleGenerator(backbone, POLICY, Sampling(max_new_tokens), template=template)
    report = judge_eval(
        Journaled(generator, home / "journal.jsonl"), feedback or AIFeedback(), rows
    )
    write_rows(home / "verdicts.jsonl", [v.to_row() for v in report.verdicts])
    (home / "report.json").write_text(json.dumps(report.to_row(), indent=1))
    draw_calibration(report, home / "calibration.png")
    console.print(Text(f"{report}\n{report.feedback}"))
    console.print(f"verdicts and the calibration plot: {home}")
    return report


def human_pairs(
    source: str, format: str = "auto", max_rows: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Read rows of ``prompt``, ``chosen``, ``rejected`` and a soft ``label``; count the others.

    Raises:
        ValueError: no row is such a pair.
    """
    raw = load_rows(source)
    if isinstance(raw, IterableDataset):
        raise ValueError(f"{source}: judge-eval cannot read a stream: leave out stream:")
    layout = recognize(
        list(raw.column_names), PreferenceData.accepts, source, reader="judge-eval", forced=format
    )
    if layout.gather is not None:
        raw = gathered(raw, layout.gather, {}, source=source, format=layout.name)
    rows: list[dict[str, Any]] = []
    dropped = 0
    read = cells.reader(cells.look(cells.sample(raw), layout.read, None), layout.read, None)
    for row in raw if max_rows is None else raw.select(range(min(max_rows, len(raw)))):
        try:
            pair = read_pair(read(row))._asdict()
        except BadRow:
            dropped += 1
            continue
        if begun_turn(pair["prompt"]) or not all(isinstance(pair[s], str) for s in SIDES):
            dropped += 1  # a judge reads whole texts
            continue
        rows.append({k: pair[k] for k in ("prompt", "chosen", "rejected", "label")})
    if not rows:
        raise ValueError(
            f"{source}: no row is a pair that people decided: use inspect to see the reasons"
        )
    return rows, dropped
