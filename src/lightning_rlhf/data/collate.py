"""From token rows to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rlhf.batches import (
    PreferenceBatch,
    PromptBatch,
    RankingBatch,
    TokenBatch,
    UnpairedBatch,
)
from lightning_rlhf.data.tokens import TokenRow


def token_batch(rows: Sequence[TokenRow]) -> TokenBatch:
    """One packed row: every prompt once, its completions after it, no padding.

    The first token of each completion is predicted at its prompt's last token, which they share;
    without a prompt nothing predicts it, and it cannot count.
    """
    ids: list[int] = []
    counts: list[bool] = []
    last: list[int] = []
    # of each prompt and completion: tokens, first position, what predicts it, completion's number
    segments: list[tuple[int, int, int, int]] = []
    for row in rows:
        prompt = len(row.prompt_ids)
        segments.append((prompt, 0, 0, 0))
        ids += row.prompt_ids
        counts += [False] * prompt
        end = len(ids) - 1  # the prompt's last place
        for completion, counting in zip(row.completion_ids, row.loss_mask, strict=True):
            segments.append((len(completion), prompt, end, len(last)))
            ids += completion
            counts += counting
            last.append(len(ids) - 1)
    size, *columns = torch.tensor(segments).T
    columns.append(size.cumsum(0) - size)
    first, end_of_prompt, number, start = (c.repeat_interleave(size) for c in columns)
    input_ids, place = torch.tensor(ids), torch.arange(len(ids))
    positions = first + place - start
    predictor = torch.where(place == start, end_of_prompt, place - 1)
    counted = torch.tensor(counts) & (positions > 0)
    return TokenBatch(
        input_ids=input_ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.bool),
        position_ids=positions[None],
        predictor_index=predictor[counted],
        target_ids=input_ids[counted],
        completion_index=number[counted],
        last_index=torch.tensor(last),
        groups=tuple((len(r.prompt_ids), *map(len, r.completion_ids)) for r in rows),
    )


def example_rows(groups: Sequence[Sequence[int]]) -> list[TokenRow]:
    """Rows of given lengths, (prompt, completion, completion, ...), that mean nothing.

    No two completions are alike, each is ranked, and one alone has a label.
    """
    return [
        TokenRow(
            prompt_ids=[0] * prompt,
            completion_ids=[[i] * n for i, n in enumerate(completions)],
            loss_mask=[[True] * n for n in completions],
            ranks=list(range(len(completions))),
            label=1.0 if len(completions) == 1 else None,
        )
        for prompt, *completions in groups
    ]


def completion_batch(
    prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]], prompts: Sequence[int]
) -> TokenBatch:
    """Some prompts with their sampled completions, every completion token under the loss mask.

    Args:
        prompt_ids: G prompts.
        completion_ids: C completions, those of one prompt together, equally many to each.
        prompts: which prompts, by index.
    """
    samples = len(completion_ids) // len(prompt_ids)
    rows = []
    for p in prompts:
        completions = list(completion_ids[p * samples : (p + 1) * samples])
        loss_mask = [[True] * len(ids) for ids in completions]
        rows.append(TokenRow(prompt_ids[p], completions, loss_mask, ranks=[0]))
    return token_batch(rows)


def with_end_positions(tokens: TokenBatch, after: Sequence[bool]) -> TokenBatch:
    """A batch whose critic is also read one position after the last token of some completions.

    Args:
        tokens: a batch whose every completion token is under the loss mask.
        after: (C,) whether to read the critic after that completion.
    """
    ends = torch.tensor(
        [c for c, also in enumerate(after) if also], device=tokens.last_index.device
    )
    if len(ends) == 0:
        return tokens
    sequence = torch.cat([tokens.completion_index, ends])
    order = sequence.argsort(stable=True)
    return tokens._replace(
        predictor_index=torch.cat([tokens.predictor_index, tokens.last_index[ends]])[order],
        target_ids=torch.cat([tokens.target_ids, tokens.target_ids.new_zeros(len(ends))])[order],
        completion_index=sequence[order],
    )


def digest(prompt: list[int], completion: list[int]) -> tuple[int, int]:
    """128 bits that name a completion after its prompt, as two int64."""
    text = f"{prompt}{completion}".encode()
    raw = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(raw[:8], "big", signed=True), int.from_bytes(raw[8:], "big", signed=True)


def preference_batch(rows: Sequence[TokenRow]) -> PreferenceBatch:
    """Pairs: completions 0, 2, 4... are chosen, 1, 3, 5... rejected."""
    first = torch.arange(0, 2 * len(rows), 2)
    return PreferenceBatch(
        tokens=token_batch(rows),
        chosen=first,
        rejected=first + 1,
        label=_column([row.label for row in rows], absent=1.0),
        margin=_column([row.margin for row in rows], absent=0.0),
        digest=torch.tensor([digest(r.prompt_ids, c) for r in rows for c in r.completion_ids]),
    )


def unpaired_batch(rows: Sequence[TokenRow]) -> UnpairedBatch:
    """Completions with a label each."""
    return UnpairedBatch(token_batch(rows), torch.tensor([row.label for row in rows]))


def ranking_batch(rows: Sequence[TokenRow]) -> RankingBatch:
    """Rankings of any K."""
    group = [g for g, row in enumerate(rows) for _ in row.completion_ids]
    rated = all(row.ratings is not None for row in rows)
    ratings = [rating for row in rows for rating in row.ratings or ()]
    return RankingBatch(
        tokens=token_batch(rows),
        group=torch.tensor(group),
        rank=torch.tensor([rank for row in rows for rank in row.ranks]),
        rating=torch.tensor(ratings) if rated else None,
    )


def prompt_batch(rows: Sequence[TokenRow]) -> PromptBatch:
    """Prompts, ragged."""
    return PromptBatch(
        [torch.tensor(row.prompt_ids) for row in rows], [row.row or "{}" for row in rows]
    )


def _column(values: list[float | None], absent: float) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return torch.tensor([absent if value is None else value for value in values])
