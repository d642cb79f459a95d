"""Layouts of a token batch: packed or padded, and completions paired with other prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_rlhf.batches import Groups, TokenBatch
from lightning_rlhf.functional.processes import Processes


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


def mismatched(tokens: TokenBatch, processes: Processes = Processes()) -> TokenBatch:
    """Pair each prompt's completions with the *previous* prompt of the batch (wrapping around).

    These are KTO's mismatched pairs. Completions keep their order. After an empty prompt a
    completion loses its first target, which nothing predicts. A single prompt keeps its own.

    Args:
        tokens: a packed batch.
        processes: their batches are parts of one, dealt out row by row.
    """
    assert tokens.groups is not None, "a packed batch"
    device = tokens.input_ids.device
    starts = [0]
    for group in tokens.groups:
        starts.append(starts[-1] + sum(group))
    row = tokens.input_ids
    if processes.size == 1:
        own = [(at, group[0]) for at, group in zip(starts, tokens.groups, strict=False)]
        before = own[-1:] + own[:-1]  # where a prompt is in the row, and its length
    else:
        prompts = [row[0, at : at + g[0]] for at, g in zip(starts, tokens.groups, strict=False)]
        others, before = _prompts_before(prompts, processes)
        before = [(at + starts[-1], length) for at, length in before]
        row = torch.cat([row, others[None]], 1)
    groups = tuple((b[1], *own[1:]) for b, own in zip(before, tokens.groups, strict=True))
    order: list[int] = []  # positions in the old row
    for g, group in enumerate(tokens.groups):
        at, length = before[g]
        order += range(at, at + length)
        order += range(starts[g] + group[0], starts[g + 1])

    _, _, old_at, n = _spans(tokens.groups, device)
    prompt_at, prompt, new_at, _ = _spans(groups, device)
    of = tokens.completion_index
    offset = (tokens.predictor_index + 1 - old_at[of]).clamp(min=0)  # within its completion
    source = torch.where(offset > 0, new_at[of] + offset, (prompt_at + prompt)[of]) - 1
    kept = slice(None) if all(g[0] for g in groups) else (offset > 0) | (prompt > 0)[of]
    return tokens._replace(
        input_ids=row[:, torch.tensor(order, device=device)],
        position_ids=positions(groups).to(device),
        predictor_index=source[kept],
        target_ids=tokens.target_ids[kept],
        completion_index=of[kept],
        last_index=new_at + n - 1,
        groups=groups,
    )


def _prompts_before(
    prompts: list[Tensor], processes: Processes
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Find the prompt before each of this process's, where processes take rows in turn.

    Returns:
        The tokens of all prompts, and for each of this process the start and length of the one
        before it.
    """
    device = prompts[0].device
    lengths = processes.gather(torch.tensor([len(p) for p in prompts], device=device))
    places: dict[tuple[int, int], tuple[int, int]] = {}  # by place in its process, and process
    start = 0
    for rank, part in enumerate(lengths):
        for place, length in enumerate(part.tolist()):
            places[place, rank] = (start, length)
            start += length
    in_turn = sorted(places)
    before = {one: in_turn[i - 1] for i, one in enumerate(in_turn)}
    own = [places[before[place, processes.rank]] for place in range(len(prompts))]
    return processes.join(torch.cat(prompts)), own


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
