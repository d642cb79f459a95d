"""Pairs of answers for a judge: two rounds of a chain, or two samples (arXiv 2212.08073, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.generator import Generator, Request
from lightning_rlhf.constitution.seeds import row_ids, seed_of
from lightning_rlhf.text.messages import as_messages

PairKind = Literal["revision_vs_draft"] | tuple[str, int, int]


def pairs(chains: Sequence[Chain], kind: PairKind) -> list[dict[str, Any]]:
    """Pair two answers of each chain; which is better is left to the judge.

    Args:
        chains: from ``SelfCritique.run``.
        kind: "revision_vs_draft" (the last revision first) or ("rounds", k, j); round 0 is the
            draft.
    """
    rows = []
    for chain in chains:
        k, j = _rounds(chain, kind)
        rows.append(
            {
                "id": f"{chain.id}/r{k}-r{j}",
                "prompt": chain.prompt,
                "first": chain.answer(k),
                "second": chain.answer(j),
                "kind": kind if isinstance(kind, str) else f"rounds_{k}_{j}",
                "source_id": chain.id,
            }
        )
    return rows


def sampled_pairs(
    generator: Generator, rows: Sequence[dict[str, Any]], seed: int = 0
) -> list[dict[str, Any]]:
    """Sample two answers to each prompt, in one call.

    Args:
        generator: the model; in the paper the one that was trained on revisions.
        rows: ``{"prompt": text or messages}``, with an optional ``"id"``; else a hash is the id.
        seed: of the run.
    """
    ids = row_ids(rows)
    requests = [
        Request(as_messages(row["prompt"]), seed_of(seed, id, "sampled", side))
        for id, row in zip(ids, rows, strict=True)
        for side in (0, 1)
    ]
    samples = list(zip(requests, generator.generate(requests), strict=True))
    both = zip(samples[::2], samples[1::2], strict=True)
    return [
        {
            "id": f"{id}/s0-s1",
            "prompt": row["prompt"],
            "first": first.text,
            "second": second.text,
            "kind": "sampled",
            "source_id": id,
            "finished": [first.finished, second.finished],
            "seeds": [one.seed, two.seed],
            "generator": dict(generator.identity),
        }
        for id, row, ((one, first), (two, second)) in zip(ids, rows, both, strict=True)
    ]


def _rounds(chain: Chain, kind: Any) -> tuple[int, int]:
    """Numbers of the two rounds of a pair."""
    if kind == "revision_vs_draft":
        return len(chain.rounds), 0
    if not isinstance(kind, str) and len(kind) == 3 and kind[0] == "rounds":
        for round in kind[1:]:
            chain.check_round(round, first=0)
        return kind[1], kind[2]
    raise ValueError(f'kind must be "revision_vs_draft" or ("rounds", k, j), got {kind!r}')
