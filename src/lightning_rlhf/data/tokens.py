"""From rows to token rows: encode, cut to length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_rlhf.data.formats import (
    Conversation,
    counts,
    first_user_turn,
    read_demonstration,
    read_feedback,
    read_pair,
    read_ranking,
)
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.turns import RewrittenHistory
from lightning_rlhf.text.messages import (
    SYSTEM,
    BadRow,
    Message,
    Prompt,
    Tools,
    prompt_of,
    read_tools,
)

# a value of TokenRow.cut, before the sides that were cut: the row is one answer of a conversation
ONE_ANSWER = "one answer"


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
    # sides that were cut: "", "prompt", "completion" or "both"; after ONE_ANSWER, if it is that
    cut: str = ""
    row: str = ""  # of a prompt: its whole row as JSON, for rewards


def fit_length(
    prompt: list[int], completions: list[list[int]], max_length: int, *, keep_first: bool = True
) -> tuple[list[int], list[list[int]], str]:
    """Cut a row to ``max_length`` tokens: prompts lose their left, completions their right.

    A prompt keeps at least half of ``max_length`` (or all of itself), so every row keeps completion
    tokens. A cut completion loses its end token: the model must not learn to stop there.
    ``keep_first`` keeps the first token of a prompt, a BOS. ``max_length`` is 2 or more.
    """
    room = max_length - min(len(prompt), max_length // 2)
    kept = [c[:room] for c in completions]
    left = max_length - max(len(c) for c in kept)
    new_prompt = _last(prompt, left, keep_first)
    cut_completion = any(len(a) < len(b) for a, b in zip(kept, completions, strict=True))
    cut_prompt = len(new_prompt) < len(prompt)
    both = {(True, True): "both", (True, False): "prompt", (False, True): "completion"}
    return new_prompt, kept, both.get((cut_prompt, cut_completion), "")


def _last(ids: list[int], size: int, keep_first: bool) -> list[int]:
    """Return the last tokens of a prompt, the first of them its BOS."""
    if len(ids) <= size:
        return ids
    return [ids[0], *ids[len(ids) - size + 1 :]] if keep_first else ids[len(ids) - size :]


def _fit(
    chat: ChatTemplate,
    asked: Prompt,
    answers: Sequence[str | Message],
    tools: Tools,
    *,
    encoded: tuple[list[int], list[list[int]]],
    max_length: int,
) -> tuple[list[int], list[list[int]], str]:
    """Cut a row to ``max_length``; a prompt loses whole turns, if what is left fits."""
    prompt, completions = encoded
    keep_first = chat.keeps_first(prompt)
    fitted = fit_length(prompt, completions, max_length, keep_first=keep_first)
    new_prompt, kept, cut = fitted
    if len(new_prompt) == len(prompt):
        return fitted
    return _without_turns(chat, asked, answers, tools, len(new_prompt)) or new_prompt, kept, cut


def _without_turns(
    chat: ChatTemplate, asked: Prompt, answers: Sequence[str | Message], tools: Tools, size: int
) -> list[int]:
    """Tokenize a prompt without its oldest turns, so that it fits; empty if it never does.

    It begins with the system turn, if that fits too, and a user's turn.
    """
    if isinstance(asked, str):
        return []
    system = [m for m in asked[:1] if m["role"] in SYSTEM]
    starts = [i for i, m in enumerate(asked) if m["role"] == "user" and i > len(system)]
    for opening in (system, []) if system else ([],):
        for start in starts:
            turns = [*opening, *asked[start:]]
            try:
                ids = (
                    chat.encode_answers(turns, answers, tools)[0]
                    if answers
                    else chat.encode_prompt(turns, tools)
                )
            except BadRow:
                continue
            if len(ids) <= size:
                return ids
    return []


def encode_demonstration(
    row: dict[str, Any], chat: ChatTemplate, max_length: int
) -> list[TokenRow]:
    """Encode a demonstration; its prompt is what precedes the first token under the loss mask.

    A conversation whose earlier turns the chat template rewrites becomes one row for each answer,
    behind its own prompt.
    """
    shown, tools = read_demonstration(row), read_tools(row.get("tools"))
    if not isinstance(shown, Conversation):
        reply = shown.reply if isinstance(shown.reply, str) else shown.reply["content"]
        made = _one_answer(chat, shown.prompt, shown.reply, tools=tools, max_length=max_length)
        return [made._replace(opening=first_user_turn(shown.prompt) or reply)]
    messages, opening = shown.messages, first_user_turn(shown.messages)
    counting = [i for i, m in enumerate(messages) if counts(m)]
    try:
        encoded = chat.encode_conversation(messages, tools)
    except RewrittenHistory:
        rows = (
            _one_answer(chat, messages[:i], messages[i], tools=tools, max_length=max_length)
            for i in counting
        )
        return [
            row._replace(opening=opening, cut=f"{ONE_ANSWER} {row.cut}".strip()) for row in rows
        ]
    ids, loss_mask = encoded
    start, first = loss_mask.index(True), counting[0]
    prompt, (completion,), cut = _fit(
        chat,
        messages[:first],
        [messages[first]],
        tools,
        encoded=(ids[:start], [ids[start:]]),
        max_length=max_length,
    )
    loss_mask = loss_mask[start:][: len(completion)]
    return [TokenRow(prompt, [completion], [loss_mask], [0], opening=opening, cut=cut)]


def _one_answer(
    chat: ChatTemplate, asked: Prompt, reply: str | Message, *, tools: Tools, max_length: int
) -> TokenRow:
    """Encode one answer to a prompt."""
    encoded = chat.encode_answers(asked, [reply], tools)
    prompt, (completion,), cut = _fit(
        chat, asked, [reply], tools, encoded=encoded, max_length=max_length
    )
    return TokenRow(prompt, [completion], [[True] * len(completion)], [0], cut=cut)


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
    encoded = chat.encode_answers(asked, answers, tools)
    prompt, completions, cut = _fit(
        chat, asked, answers, tools, encoded=encoded, max_length=max_length
    )
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
    tools = read_tools(row.get("tools"))
    ids = chat.encode_prompt(prompt, tools)
    if not ids:
        raise BadRow("empty prompt")
    kept = _last(ids, max_length, chat.keeps_first(ids))
    if len(kept) < len(ids):
        kept = _without_turns(chat, prompt, [], tools, max_length) or kept
    cut = "prompt" if len(kept) < len(ids) else ""
    whole = json.dumps(row, ensure_ascii=False, default=str)
    return TokenRow(kept, [], [], [], opening=first_user_turn(prompt), cut=cut, row=whole)
