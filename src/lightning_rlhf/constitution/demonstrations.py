"""Demonstrations from chains: revisions that pass the gates, mixed with helpful rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.gates import GateReport, Gates, check
from lightning_rlhf.constitution.seeds import pick
from lightning_rlhf.text.jsonl import read_rows, write_rows

BROKEN = ("role_confusion", "no_end", "loops", "length")  # rows that fail one are left out


def demonstrations(
    chains: Sequence[Chain], rounds: Sequence[int] | Literal["all", "last"] = "all"
) -> list[dict[str, Any]]:
    """Build rows for imitation: the revisions of all rounds, as in the paper, or of some.

    Args:
        chains: from ``SelfCritique.run``.
        rounds: "all", "last", or numbers from 1.
    """
    rows = []
    for chain in chains:
        for round in _numbers(rounds, len(chain.rounds)):
            chain.check_round(round, first=1)
            rows.append(
                {
                    "id": f"{chain.id}/r{round}",
                    "prompt": chain.prompt,
                    "completion": chain.answer(round),
                    "finished": chain.finished(round),
                    "source_id": chain.id,
                    "round": round,
                    "principle": chain.rounds[round - 1].principle,
                    "constitution": chain.constitution["sha256"],
                }
            )
    return rows


def _numbers(rounds: Sequence[int] | str, last: int) -> Sequence[int]:
    if not isinstance(rounds, str):
        return rounds
    if rounds not in ("all", "last"):
        raise ValueError(f'rounds must be "all", "last" or numbers from 1, got {rounds!r}')
    return range(1 if rounds == "all" else last, last + 1)


def write_demonstrations(
    chains: str,
    folder: str,
    helpful: str | None = None,
    share: float = 0.5,
    pure: bool = False,
    rounds: Literal["all", "last"] = "all",
    gates: Gates | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Write revisions that pass the gates, mixed with helpful rows, as ``rows.jsonl``.

    The paper trains on the revisions of all rounds and on about equally many helpful rows,
    since helpfulness falls with every revision (arXiv 2212.08073, section 3.3, figure 5).

    Args:
        chains: file of the rows of ``SelfCritiqueModule``.
        folder: output folder; it also gets ``gates.json``.
        helpful: file of rows with ``prompt`` and ``completion``.
        share: helpful rows as a share of all rows; fewer where the file has fewer.
        pure: train on revisions alone.
        rounds: "all" or "last".
        gates: their limits.
        seed: of the draw of helpful rows.

    Raises:
        ValueError: neither helpful rows nor ``pure`` is given, or no revision is left.
        GateTripped: a gate tripped, which stops the stages that follow.
    """
    if helpful is None and not pure:
        raise ValueError(
            "training on critique data alone costs helpfulness: give helpful= rows to mix in, "
            "or ask for it with pure=true"
        )
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    sources = [Chain.from_row(row) for row in read_rows(chains)]
    report = check(sources, gates)
    _write_report(Path(folder) / "gates.json", report)
    report.stop()
    bad = {i for r in report.results if r.gate in BROKEN and r.limit is not None for i in r.failed}
    revisions = report.stamped(demonstrations(sources, rounds))
    kept = [row for row in revisions if row["id"] not in bad]
    if not kept:
        raise ValueError(f"{chains}: no revision is left to imitate; {folder}/gates.json says why")
    extra = _draw_helpful(None if pure else helpful, len(kept), share, seed)
    write_rows(Path(folder) / "rows.jsonl", kept + extra)
    shares = {f"gate_{result.gate}": result.share for result in report.results}
    return {"revisions": len(kept), "left_out": len(bad), "helpful": len(extra), **shares}


def _draw_helpful(
    file: str | None, revisions: int, share: float, seed: int
) -> list[dict[str, Any]]:
    rows = list(read_rows(file)) if file is not None else []
    count = min(len(rows), round(revisions * share / (1 - share)))
    return [rows[i] for i in pick(count, len(rows), seed, "helpful")]


def _write_report(path: Path, report: GateReport) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_row(), indent=1, ensure_ascii=False))
