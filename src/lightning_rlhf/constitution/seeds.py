"""Deterministic seeds and row ids.

Each random choice is hashed from (run seed, row id, purpose), so one row can be regenerated alone
and row order does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lightning_rlhf.text.messages import Prompt, as_messages, checked_prompt


def canonical(value: Any) -> str:
    """Canonical JSON: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """Hash a value's canonical JSON: sha256, in hex."""
    return hashlib.sha256(canonical(value).encode(errors="surrogatepass")).hexdigest()


def seed_of(*parts: object) -> int:
    """Hash parts into 63 bits; order matters, and ``1`` and ``"1"`` are different parts."""
    return int(digest(parts)[:16], 16) >> 1


def share_of(*parts: object) -> float:
    """Hash parts into a number in [0, 1)."""
    return (seed_of(*parts) >> 10) / 2**53


def pick(count: int, of: int, *parts: object) -> list[int]:
    """Draw ``count`` different indices below ``of``, in random order."""
    ranked = sorted(range(of), key=lambda i: seed_of(*parts, i))
    return ranked[:count]


def row_id(prompt: Prompt, *more: object) -> str:
    """Hash a prompt, and further parts that identify its row, into 16 hex digits."""
    return digest([as_messages(prompt), *more])[:16]


def row_ids(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Get the id of each row: its ``"id"``, or a hash of its prompt.

    Raises:
        ValueError: a row has no prompt, or two different prompts have one id.
    """
    ids: list[str] = []
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(rows, 1):
        prompt = checked_prompt(row, f"row {number}")
        id = str(row["id"]) if row.get("id") is not None else row_id(prompt)
        if as_messages(prompts.setdefault(id, prompt)) != as_messages(prompt):
            raise ValueError(f"row {number} has the id {id!r} of another prompt: give it its own")
        ids.append(id)
    return ids


def weighted(weights: Sequence[float], *parts: object) -> int:
    """Draw an index with probability in proportion to its weight."""
    left = share_of(*parts) * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return max(i for i, weight in enumerate(weights) if weight > 0)  # lost to rounding
