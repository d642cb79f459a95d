"""Every draw from a hash of what it is for: a row can be made again alone, and order is nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lightning_rlhf.constitution.generator import Message, Prompt


def canonical(value: Any) -> str:
    """JSON in which equal values are equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def seed_of(*parts: object) -> int:
    """63 bits that depend on every part and its place; ``1`` and ``"1"`` are different parts."""
    return int(digest(parts)[:16], 16) >> 1


def share_of(*parts: object) -> float:
    """A number in [0, 1) from the parts."""
    return (seed_of(*parts) >> 10) / 2**53


def pick(count: int, of: int, *parts: object) -> list[int]:
    """``count`` different indices below ``of``, in a drawn order."""
    ranked = sorted(range(of), key=lambda i: seed_of(*parts, i))
    return ranked[:count]


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as messages; a string is what a user says."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def prompt_of(row: dict[str, Any], where: str) -> Prompt:
    """The prompt of a row that a model can answer.

    Raises:
        ValueError: there is none, or it is no conversation that awaits an answer.
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
    """16 hex digits of a prompt's content (and of what else tells its row from others)."""
    return digest([as_messages(prompt), *more])[:16]


def weighted(weights: Sequence[float], *parts: object) -> int:
    """An index with probability in proportion to its weight."""
    left = share_of(*parts) * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return max(i for i, weight in enumerate(weights) if weight > 0)  # rounding ate the last bit
