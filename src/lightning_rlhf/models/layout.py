"""Layouts of a token batch: packed or padded, and completions paired with other prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_rlhf.batches import Groups, TokenBatch


def positions(groups: Groups) -> Tensor:
    """Positions of a packed row: completions continue after their prompt: (1, T)."""
    pieces = [
        piece
        for prompt, *completions in groups
        for piece in (
            torch.arange(prompt),
            *(torch.arange(prompt, prompt + n) for n in completions),
        )
    ]
    return torch.cat(pieces)[None]


def unpacked(tokens: TokenBatch, pad_id: int = 0) -> TokenBatch:
    """Pad a packed batch: each row is a prompt with one completion. A padded batch is unchanged."""
    if tokens.groups is None:
        return tokens
    device = tokens.input_ids.device
    at, prompt_length, completion_at, n = _spans(tokens.groups, device)
    length = max(prompt + max(completions) for prompt, *completions in tokens.groups)
    column = torch.arange(length, device=device)
    in_prompt = column < prompt_length[:, None]
    origin = torch.where(
        in_prompt, at[:, None] + column, (completion_at - prompt_length)[:, None] + column
    )
    real = column < (prompt_length + n)[:, None]
    ids = tokens.input_ids[0][origin.clamp(max=tokens.input_ids.shape[1] - 1)].masked_fill(
        ~real, pad_id
    )

    def moved(place: Tensor, row: Tensor) -> Tensor:
        shared = place < completion_at[row]
        own = torch.where(shared, place - at[row], place - completion_at[row] + prompt_length[row])
        return row * length + own

    return tokens._replace(
        input_ids=ids,
        attention_mask=real,
        position_ids=column.expand_as(ids),
        predictor_index=moved(tokens.predictor_index, tokens.completion_index),
        last_index=moved(tokens.last_index, torch.arange(len(n), device=device)),
        groups=None,
    )


def mismatched(tokens: TokenBatch) -> TokenBatch:
    """Pair each prompt's completions with the *previous* prompt of the batch (wrapping around).

    These are KTO's mismatched pairs. Completions keep their order. After an empty prompt a
    completion loses its first target, which nothing predicts. A single prompt keeps its own.
    """
    assert tokens.groups is not None, "a packed batch"
    device = tokens.input_ids.device
    before = tokens.groups[-1:] + tokens.groups[:-1]
    groups = tuple((b[0], *own[1:]) for b, own in zip(before, tokens.groups, strict=True))
    starts = [0]
    for group in tokens.groups:
        starts.append(starts[-1] + sum(group))
    order: list[int] = []  # positions in the old row
    for g, group in enumerate(tokens.groups):
        at = starts[(g - 1) % len(before)]
        order += range(at, at + before[g][0])
        order += range(starts[g] + group[0], starts[g + 1])

    _, _, old_at, n = _spans(tokens.groups, device)
    prompt_at, prompt, new_at, _ = _spans(groups, device)
    of = tokens.completion_index
    offset = (tokens.predictor_index + 1 - old_at[of]).clamp(min=0)  # within its completion
    source = torch.where(offset > 0, new_at[of] + offset, (prompt_at + prompt)[of]) - 1
    kept = slice(None) if all(g[0] for g in groups) else (offset > 0) | (prompt > 0)[of]
    return tokens._replace(
        input_ids=tokens.input_ids[:, torch.tensor(order, device=device)],
        position_ids=positions(groups).to(device),
        predictor_index=source[kept],
        target_ids=tokens.target_ids[kept],
        completion_index=of[kept],
        last_index=new_at + n - 1,
        groups=groups,
    )


def _spans(groups: Groups, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start and length of each completion's prompt, and its own start and length: (C,) each."""
    spans, start = [], 0
    for prompt, *completions in groups:
        place = start + prompt
        for n in completions:
            spans.append((start, prompt, place, n))
            place += n
        start = place
    at, length, place_, n_ = torch.tensor(spans, device=device).T
    return at, length, place_, n_
