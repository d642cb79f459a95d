"""Read what a chat API answered; every type in it may be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_rlhf.constitution.generator import Completion
from lightning_rlhf.text.display import quoted

ROUNDING = 1e-3  # a log-prob this far above 0 is one that a server rounded


def read_choice(answer: Any) -> dict[str, Any]:
    """Return the first choice of an answer."""
    choices = _field(answer, "choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError(f"answered without choices: {quoted(answer, 200)}; check base_url")
    choice: dict[str, Any] = choices[0]
    return choice


def read_completion(choice: dict[str, Any]) -> Completion:
    """Read the text of a choice; half characters become U+FFFD, as tokenizers decode them."""
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError(f"answered with a message that is {_kind(message)}: check base_url")
    text = message.get("content")
    if text is None:
        text = ""  # a refusal, or the call of a tool
    if not isinstance(text, str):
        raise ValueError(f"answered with a content that is {_kind(text)}, not text")
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Completion(whole, choice.get("finish_reason") == "stop")


def read_top_logprobs(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Read the likeliest first tokens of a choice and their log-probs."""
    content = _field(choice.get("logprobs"), "content")
    first = content[0] if isinstance(content, list) and content else None
    entries = _field(first, "top_logprobs")
    if not isinstance(entries, list) or not entries:
        raise ValueError("gives no top_logprobs: use a server that does")
    return [_entry(entry) for entry in entries]


def _entry(entry: Any) -> tuple[str, float]:
    token, value = _field(entry, "token"), _field(entry, "logprob")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(token, str) or not number or not -math.inf <= value <= ROUNDING:
        raise ValueError(f"answered with {quoted(entry)}, which is not a token and its log-prob")
    return token, float(max(value, -1e300))


def option_logprob(option: str, tokens: Sequence[tuple[str, float]], model: str) -> float:
    """Look up an option among the likeliest first tokens, with or without a leading space.

    Raises:
        ValueError: only a prefix of it is among them, so it takes several tokens.
    """
    wanted = option.strip()
    matches = [logprob for token, logprob in tokens if token.strip() == wanted]
    if matches:
        top = max(matches)
        return top + math.log(sum(math.exp(x - top) for x in matches))
    parts = [token for token, _ in tokens if token.strip() and wanted.startswith(token.strip())]
    if parts:
        raise ValueError(
            f"option {option!r} takes several tokens of {model} ({quoted(parts[0])} begins it), "
            "and an endpoint returns log-probs of one: choose options of one token each"
        )
    return -math.inf


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _kind(value: Any) -> str:
    return "absent" if value is None else f"a {type(value).__name__}"
