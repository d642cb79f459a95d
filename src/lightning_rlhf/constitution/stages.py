"""What stands between the stages: gates, and rows of one stage made into rows of the next."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.gates import GateReport, Gates, check
from lightning_rlhf.constitution.seeds import pick
from lightning_rlhf.constitution.self_critique import demonstrations

BROKEN = ("role_confusion", "no_end", "loops", "length")  # rows that fail one are left out


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
    """Revisions to imitate, behind the gates and mixed with helpful rows: ``rows.jsonl``.

    The paper trains on the revisions of all rounds and on as good as equally many helpful rows,
    since helpfulness falls with every revision (arXiv 2212.08073, section 3.3, figure 5).

    Args:
        chains: the rows of ``SelfCritiqueModule``.
        folder: where to; ``gates.json`` lies beside the rows.
        helpful: rows of ``prompt`` and ``completion``.
        share: of all rows that are to be helpful ones; fewer where the file has fewer.
        pure: train on revisions alone.
        rounds: "all" or "last".
        gates: their limits.
        seed: of which helpful rows are drawn.

    Raises:
        ValueError: neither helpful rows nor ``pure``; or a gate trips, which stops what follows.
    """
    if helpful is None and not pure:
        raise ValueError(
            "training on critique data alone costs helpfulness: give helpful= rows to mix in, "
            "or ask for it with pure=true"
        )
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    read = [Chain.from_row(row) for row in read_rows(chains)]
    report = check(read, gates)
    write_report(Path(folder) / "gates.json", report)
    report.stop()
    bad = {i for r in report.results if r.gate in BROKEN and r.limit is not None for i in r.failed}
    told = report.stamped(demonstrations(read, rounds))
    kept = [row for row in told if row["id"] not in bad]
    if not kept:
        raise ValueError(f"{chains}: no revision is left to imitate; {folder}/gates.json says why")
    mixed = list(read_rows(helpful)) if helpful is not None and not pure else []
    wanted = min(len(mixed), round(len(kept) * share / (1 - share)))
    rows = kept + [mixed[i] for i in pick(wanted, len(mixed), seed, "helpful")]
    write_rows(Path(folder) / "rows.jsonl", rows)
    shares = {f"gate_{result.gate}": result.share for result in report.results}
    return {"revisions": len(kept), "left_out": len(bad), "helpful": wanted, **shares}


def read_rows(path: str | Path) -> Iterable[dict[str, Any]]:
    """Rows of a JSONL file.

    Raises:
        ValueError: a line is no JSON.
    """
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} line {number} is broken JSON: {error.msg}") from error


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_report(path: Path, report: GateReport) -> None:
    """All gates over all rows, tripped or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_row(), indent=1, ensure_ascii=False))
