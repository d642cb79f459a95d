"""Statistics of token rows: lengths, tokens under the loss mask, duplicates, batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset

from lightning_rlhf.data.tokens import TokenRow

BLOCK = 10_000  # rows read together


class Run(NamedTuple):
    """Neighboring tokens of a sequence of one kind."""

    ids: list[int]
    in_loss: bool
    special: bool


class Figures(NamedTuple):
    """Lengths in tokens of R rows with C completions in all, and counts."""

    prompt: np.ndarray  # (R,)
    completion: np.ndarray  # (C,)
    row: np.ndarray  # (R,) prompt and its longest completion, which max_length bounds
    tokens: np.ndarray  # (R,) prompt once and every completion, which a step holds
    completions: np.ndarray  # (R,) number of completions
    loss_tokens: int  # tokens under the loss mask
    same_rows: int  # rows with the prompt and completions of an earlier row
    same_prompts: int  # rows with the prompt of an earlier row


class BatchPlan(NamedTuple):
    """The B batches of one epoch."""

    rows: np.ndarray  # (B,)
    tokens: np.ndarray  # (B,) packed: every prompt once, no padding
    padded: np.ndarray  # (B,) if each completion were a padded row of its own after its prompt


def loss_masks(row: TokenRow) -> list[list[bool]]:
    """Return each completion's loss mask; a row's first token is off, as nothing predicts it."""
    if row.prompt_ids:
        return row.loss_mask
    return [[False, *mask[1:]] for mask in row.loss_mask]


def runs(ids: Sequence[int], loss_mask: Sequence[bool], special: set[int]) -> list[Run]:
    """Split a sequence into runs of tokens of one kind; a special token is a run of its own."""
    found: list[Run] = []
    for token, in_loss in zip(ids, loss_mask, strict=True):
        mark = token in special
        if found and not mark and (in_loss, False) == found[-1][1:]:
            found[-1].ids.append(token)
        else:
            found.append(Run([token], in_loss, mark))
    return found


def cut_ends(row: TokenRow, ends: set[int]) -> list[bool]:
    """Tell which completions were cut: the longest that do not end with an end token."""
    if not row.cut.endswith(("completion", "both")):
        return [False] * len(row.completion_ids)
    longest = max(map(len, row.completion_ids))
    full = [len(c) == longest for c in row.completion_ids]
    sure = [f and c[-1] not in ends for f, c in zip(full, row.completion_ids, strict=True)]
    return sure if any(sure) else full


def figures_of(rows: Dataset) -> Figures:
    """Compute the figures of a table block by block: a million rows stay on disk."""
    prompt, completion, longest, tokens, many = ([] for _ in range(5))
    seen_rows: set[bytes] = set()
    seen_prompts: set[bytes] = set()
    loss_tokens = 0
    names = ["prompt_ids", "completion_ids", "loss_mask"]
    for block in rows.select_columns(names).with_format("arrow").iter(batch_size=BLOCK):
        prompts, start = _flat(block.column("prompt_ids"))
        nested, first = _flat(block.column("completion_ids"))
        ids, place = _flat(nested)
        flags, _ = _flat(_flat(block.column("loss_mask"))[0])
        flags, ids, prompts = (x.to_numpy(zero_copy_only=False) for x in (flags, ids, prompts))
        p, c, k = np.diff(start), np.diff(place), np.diff(first)
        total = np.concatenate([[0], np.cumsum(c)])
        prompt.append(p)
        completion.append(c)
        many.append(k)
        tokens.append(p + total[first[1:]] - total[first[:-1]])
        loss_tokens += int(flags.sum())
        for i in range(len(p)):
            own = range(first[i], first[i + 1])  # its completions
            longest.append(p[i] + max((c[j] for j in own), default=0))
            if p[i] == 0:  # nothing predicts the first token of a row
                loss_tokens -= sum(bool(flags[place[j]]) for j in own if c[j])
            key = hashlib.blake2b(prompts[start[i] : start[i + 1]].tobytes(), digest_size=16)
            seen_prompts.add(key.digest())
            for j in own:
                key.update(b"|" + int(c[j]).to_bytes(4, "big"))
                key.update(ids[place[j] : place[j + 1]].tobytes())
            seen_rows.add(key.digest())
    n = len(longest)
    flat = [np.concatenate(x).astype(np.int64) for x in (prompt, completion, tokens, many)]
    return Figures(
        prompt=flat[0],
        completion=flat[1],
        row=np.array(longest, np.int64),
        tokens=flat[2],
        completions=flat[3],
        loss_tokens=loss_tokens,
        same_rows=n - len(seen_rows),
        same_prompts=n - len(seen_prompts),
    )


def batch_plan(figures: Figures, partition: Sequence[Sequence[int]]) -> BatchPlan:
    """Count rows and tokens of the batches of a partition; a prompt alone is one sequence."""
    sequences = np.maximum(figures.completions, 1)
    groups = [np.asarray(rows, np.int64) for rows in partition]
    return BatchPlan(
        np.array([len(g) for g in groups]),
        np.array([figures.tokens[g].sum() for g in groups]),
        np.array([sequences[g].sum() * figures.row[g].max() for g in groups]),
    )


def _flat(lists: pa.ChunkedArray | pa.ListArray) -> tuple[pa.Array, np.ndarray]:
    """Flatten lists into their values, and the offset of each list, with the end of the last."""
    whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    offsets = whole.offsets.to_numpy()
    values = whole.values.slice(offsets[0], offsets[-1] - offsets[0])
    return values, offsets - offsets[0]
