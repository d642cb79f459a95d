"""From rows to token rows: encode, cut to length."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from lightning_rlhf.data.formats import (
    Conversation,
    first_user_turn,
    read_demonstration,
    read_feedback,
    read_pair,
    read_ranking,
)
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.text.messages import BadRow, prompt_of, read_tools


class TokenRow(NamedTuple):
    """A prompt and the completions that follow it, each with its loss mask."""

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    loss_mask: list[list[bool]]  # True where a completion's token is trained on
    ranks: list[int]  # lower is better; a pair is 0, 1
    ratings: list[float] | None = None
    label: float | None = None
    margin: float | None = None
    opening: str = ""  # first user turn: rows that share it fall on the same side of a split
    cut: str = ""  # sides that were cut: "", "prompt", "completion" or "both"
    row: str = ""  # of a prompt: its whole row as JSON, for rewards


def fit_length(
    prompt: list[int], completions: list[list[int]], max_length: int
) -> tuple[list[int], list[list[int]], str]:
    """Cut a row to ``max_length`` tokens: prompts lose their left, completions their right.

    A prompt keeps at least half of ``max_length`` (or all of itself), so every row keeps completion
    tokens. A cut completion loses its end token: the model must not learn to stop there. The first
    token (a BOS) of a prompt stays. ``max_length`` is 2 or more.
    """
    room = max_length - min(len(prompt), max_length // 2)
    kept = [c[:room] for c in completions]
    left = max_length - max(len(c) for c in kept)
    new_prompt = prompt if len(prompt) <= left else [prompt[0], *prompt[len(prompt) - left + 1 :]]
    cut_completion = any(len(a) < len(b) for a, b in zip(kept, completions, strict=True))
    cut_prompt = len(new_prompt) < len(prompt)
    both = {(True, True): "both", (True, False): "prompt", (False, True): "completion"}
    return new_prompt, kept, both.get((cut_prompt, cut_completion), "")


def encode_demonstration(row: dict[str, Any], chat: ChatTemplate, max_length: int) -> TokenRow:
    """Encode a demonstration; its prompt is what precedes the first token under the loss mask."""
    shown, tools = read_demonstration(row), read_tools(row.get("tools"))
    if isinstance(shown, Conversation):
        ids, loss_mask = chat.encode_conversation(shown.messages, tools)
        start = loss_mask.index(True)
        prompt, completion, loss_mask = ids[:start], ids[start:], loss_mask[start:]
        opening = first_user_turn(shown.messages)
    else:
        prompt = chat.encode_prompt(shown.prompt, tools)
        completion = chat.encode_answer(shown.prompt, shown.reply, tools)
        loss_mask = [True] * len(completion)
        opening = first_user_turn(shown.prompt) or shown.reply
    prompt, (completion,), cut = fit_length(prompt, [completion], max_length)
    loss_mask = loss_mask[: len(completion)]
    return TokenRow(prompt, [completion], [loss_mask], [0], opening=opening, cut=cut)


def encode_preference(row: dict[str, Any], chat: ChatTemplate, max_length: int) -> TokenRow:
    """Encode a pair, a ranking, or one completion with a label."""
    ratings, label, margin = None, None, None
    if row.get("completion") is not None or row.get("messages") is not None:
        feedback = read_feedback(row)
        asked, answers, ranks, label = feedback.prompt, [feedback.completion], [0], feedback.label
    elif row.get("completions") is not None:
        ranking = read_ranking(row)
        asked, answers, ranks, ratings = ranking
    else:
        pair = read_pair(row)
        asked, answers, ranks = pair.prompt, [pair.chosen, pair.rejected], [0, 1]
        label, margin = pair.label, pair.margin
    tools = read_tools(row.get("tools"))
    prompt = chat.encode_prompt(asked, tools)
    completions = [chat.encode_answer(asked, answer, tools) for answer in answers]
    prompt, completions, cut = fit_length(prompt, completions, max_length)
    if len(answers) > 1 and len({tuple(c) for c in completions}) < 2:
        raise BadRow("identical once cut to max_length" if cut else "identical once tokenized")
    loss_mask = [[True] * len(c) for c in completions]
    return TokenRow(
        prompt_ids=prompt,
        completion_ids=completions,
        loss_mask=loss_mask,
        ranks=ranks,
        ratings=ratings,
        label=label,
        margin=margin,
        opening=first_user_turn(asked),
        cut=cut,
    )


def encode_prompt(row: dict[str, Any], chat: ChatTemplate, max_length: int) -> TokenRow:
    """Encode a prompt alone, from whichever column holds one."""
    prompt = prompt_of(row)
    ids = chat.encode_prompt(prompt, read_tools(row.get("tools")))
    if not ids:
        raise BadRow("empty prompt")
    kept = ids if len(ids) <= max_length else [ids[0], *ids[len(ids) - max_length + 1 :]]
    cut = "prompt" if len(kept) < len(ids) else ""
    whole = json.dumps(row, ensure_ascii=False, default=str)
    return TokenRow(kept, [], [], [], opening=first_user_turn(prompt), cut=cut, row=whole)
