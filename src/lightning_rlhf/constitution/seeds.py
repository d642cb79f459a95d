"""Deterministic seeds and row ids.

Each random choice is hashed from (run seed, row id, purpose), so one row can be regenerated alone
and row order does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lightning_rlhf.constitution.generator import Message, Prompt


def canonical(value: Any) -> str:
    """Canonical JSON: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """Hash a value's canonical JSON: sha256, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


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


def as_messages(prompt: Prompt) -> list[Message]:
    """Turn a prompt into messages; a string is a user turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def prompt_of(row: dict[str, Any], where: str) -> Prompt:
    """Get a row's prompt.

    Raises:
        ValueError: there is none, or it is not a conversation that ends with a user's turn.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(f"{where} has no prompt: give it one as text or as messages")
    for message in prompt:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"{where}: a message of the prompt lacks role or content as text")
    if prompt[-1].get("role") in (None, "assistant", "system"):
        raise ValueError(
            f"{where}: the prompt ends with the role {prompt[-1].get('role')!r}; it must end with "
            "a user's turn"
        )
    return prompt


def row_id(prompt: Prompt, *more: object) -> str:
    """Hash a prompt, and what else tells its row from others, into 16 hex digits."""
    return digest([as_messages(prompt), *more])[:16]


def row_ids(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Get the id of each row: its ``"id"``, or a hash of its prompt.

    Raises:
        ValueError: a row has no prompt, or two different prompts have one id.
    """
    ids: list[str] = []
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(rows, 1):
        prompt = prompt_of(row, f"row {number}")
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
