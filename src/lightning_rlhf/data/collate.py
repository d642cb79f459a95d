"""Collate token rows into batches."""

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
    """Pack rows into one: every prompt once, its completions after it, no padding.

    The first token of each completion is predicted at the last token of its prompt, which they
    share; without a prompt nothing predicts it, and it is masked out of the loss.
    """
    ids: list[int] = []
    mask: list[bool] = []
    last: list[int] = []
    # of each prompt and completion: tokens, first position, predictor, number of the completion
    segments: list[tuple[int, int, int, int]] = []
    for row in rows:
        prompt = len(row.prompt_ids)
        segments.append((prompt, 0, 0, 0))
        ids += row.prompt_ids
        mask += [False] * prompt
        end = len(ids) - 1  # index of the prompt's last token
        for completion, loss_mask in zip(row.completion_ids, row.loss_mask, strict=True):
            segments.append((len(completion), prompt, end, len(last)))
            ids += completion
            mask += loss_mask
            last.append(len(ids) - 1)
    size, *columns = torch.tensor(segments).T
    columns.append(size.cumsum(0) - size)
    first, end_of_prompt, number, start = (c.repeat_interleave(size) for c in columns)
    input_ids, index = torch.tensor(ids), torch.arange(len(ids))
    positions = first + index - start
    predictor = torch.where(index == start, end_of_prompt, index - 1)
    in_loss = torch.tensor(mask) & (positions > 0)
    return TokenBatch(
        input_ids=input_ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.bool),
        position_ids=positions[None],
        predictor_index=predictor[in_loss],
        target_ids=input_ids[in_loss],
        completion_index=number[in_loss],
        last_index=torch.tensor(last),
        groups=tuple((len(r.prompt_ids), *map(len, r.completion_ids)) for r in rows),
    )


def example_rows(groups: Sequence[Sequence[int]]) -> list[TokenRow]:
    """Make placeholder rows of given lengths: (prompt, completion, completion, ...).

    Completions are all different and ranked; a single one has a label.
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
    """Pack some prompts and their sampled completions, with every completion token in the loss.

    Args:
        prompt_ids: G prompts.
        completion_ids: C completions, those of one prompt together, equally many for each.
        prompts: indices of the prompts to pack.
    """
    samples, rest = divmod(len(completion_ids), len(prompt_ids))
    assert rest == 0, "every prompt has equally many completions"
    rows = []
    for p in prompts:
        completions = list(completion_ids[p * samples : (p + 1) * samples])
        loss_mask = [[True] * len(ids) for ids in completions]
        rows.append(TokenRow(prompt_ids[p], completions, loss_mask, ranks=[0]))
    return token_batch(rows)


def with_end_positions(tokens: TokenBatch, after: Sequence[bool]) -> TokenBatch:
    """Add a position after the last token of some completions, where the critic is read too.

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
    """Hash a completion after its prompt into 128 bits, as two int64."""
    text = f"{prompt}{completion}".encode()
    raw = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(raw[:8], "big", signed=True), int.from_bytes(raw[8:], "big", signed=True)


def preference_batch(rows: Sequence[TokenRow]) -> PreferenceBatch:
    """Collate pairs: completions 0, 2, 4... are chosen, 1, 3, 5... rejected."""
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
    """Collate completions with a label each."""
    return UnpairedBatch(token_batch(rows), torch.tensor([row.label for row in rows]))


def ranking_batch(rows: Sequence[TokenRow]) -> RankingBatch:
    """Collate rankings of any K."""
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
    """Collate prompts, ragged."""
    return PromptBatch(
        [torch.tensor(row.prompt_ids) for row in rows], [row.row or "{}" for row in rows]
    )


def _column(values: list[float | None], absent: float) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return torch.tensor([absent if value is None else value for value in values])
