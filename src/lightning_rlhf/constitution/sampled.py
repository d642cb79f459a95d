"""Rows with names, and two samples to a prompt, as the paper pairs them (arXiv 2212.08073, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_rlhf.constitution.generator import Generator, Prompt, Request
from lightning_rlhf.constitution.seeds import as_messages, prompt_of, row_id, seed_of


def named(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The id of each row: its own, or a hash of its prompt.

    Raises:
        ValueError: a row has no prompt, or two different prompts have one id.
    """
    ids, seen = [], dict[str, Prompt]()
    for place, row in enumerate(rows, 1):
        prompt = prompt_of(row, f"row {place}")
        id = str(row["id"]) if row.get("id") is not None else row_id(prompt)
        if as_messages(seen.setdefault(id, prompt)) != as_messages(prompt):
            raise ValueError(f"row {place} has the id {id!r} of another prompt: give it its own")
        ids.append(id)
    return ids


def sampled_pairs(
    generator: Generator, rows: Sequence[dict[str, Any]], seed: int = 0
) -> list[dict[str, Any]]:
    """Two answers to each prompt in one call, for a judge to compare.

    Args:
        generator: who answers; in the paper the model that was trained on revisions.
        rows: ``{"prompt": text or messages}``, with an ``"id"`` where it should not be a hash.
        seed: of the run.
    """
    ids = named(rows)
    requests = [
        Request(as_messages(row["prompt"]), seed_of(seed, id, "sampled", side))
        for id, row in zip(ids, rows, strict=True)
        for side in (0, 1)
    ]
    answers = generator.generate(requests)
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
        for id, row, first, second, one, two in zip(
            ids, rows, answers[::2], answers[1::2], requests[::2], requests[1::2], strict=True
        )
    ]
