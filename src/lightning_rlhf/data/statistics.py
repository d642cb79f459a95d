"""Figures about token rows: lengths, what counts, what is there twice, and what a step holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset

from lightning_rlhf.data.tokens import TokenRow

BLOCK = 10_000  # rows looked at together


class Run(NamedTuple):
    """Neighbouring tokens of a sequence that are alike."""

    ids: list[int]
    in_loss: bool
    special: bool


class Figures(NamedTuple):
    """Of R rows with C completions in all, in tokens."""

    prompt: np.ndarray  # (R,)
    completion: np.ndarray  # (C,)
    row: np.ndarray  # (R,) prompt and its longest completion: what max_length bounds
    tokens: np.ndarray  # (R,) prompt once and every completion: what a step holds of it
    completions: np.ndarray  # (R,) how many
    loss_tokens: int  # tokens under the loss mask
    same_rows: int  # rows whose prompt and completions were there before
    same_prompts: int  # rows whose prompt was there before


class BatchPlan(NamedTuple):
    """The B batches of one epoch."""

    rows: np.ndarray  # (B,)
    tokens: np.ndarray  # (B,) packed: every prompt once, no padding
    padded: np.ndarray  # (B,) were each completion a row of its own behind its prompt, padded


def loss_masks(row: TokenRow) -> list[list[bool]]:
    """Each completion's loss mask; a row's first token is off, as nothing predicts it."""
    if row.prompt_ids:
        return row.loss_mask
    return [[False, *mask[1:]] for mask in row.loss_mask]


def runs(ids: Sequence[int], loss_mask: Sequence[bool], special: set[int]) -> list[Run]:
    """A sequence as runs of tokens alike; a special token is a run of its own."""
    found: list[Run] = []
    for token, in_loss in zip(ids, loss_mask, strict=True):
        mark = token in special
        if found and not mark and (in_loss, False) == found[-1][1:]:
            found[-1].ids.append(token)
        else:
            found.append(Run([token], in_loss, mark))
    return found


def cut_ends(row: TokenRow, ends: set[int]) -> list[bool]:
    """Which completions lost their right: the longest, where they do not end with an end token."""
    if row.cut not in ("completion", "both"):
        return [False] * len(row.completion_ids)
    longest = max(map(len, row.completion_ids))
    full = [len(c) == longest for c in row.completion_ids]
    sure = [f and c[-1] not in ends for f, c in zip(full, row.completion_ids, strict=True)]
    return sure if any(sure) else full


def figures_of(rows: Dataset) -> Figures:
    """Of a table of token rows, block by block: a million rows stay on disk."""
    prompt, completion, longest, tokens, many = ([] for _ in range(5))
    seen_rows: set[bytes] = set()
    seen_prompts: set[bytes] = set()
    counted = 0
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
        counted += int(flags.sum())
        for i in range(len(p)):
            mine = range(first[i], first[i + 1])
            longest.append(p[i] + max((c[j] for j in mine), default=0))
            if p[i] == 0:  # the first token of a row cannot count
                counted -= sum(bool(flags[place[j]]) for j in mine if c[j])
            key = hashlib.blake2b(prompts[start[i] : start[i + 1]].tobytes(), digest_size=16)
            seen_prompts.add(key.digest())
            for j in mine:
                key.update(b"|" + int(c[j]).to_bytes(4, "big"))
                key.update(ids[place[j] : place[j + 1]].tobytes())
            seen_rows.add(key.digest())
    n = len(longest)
    flat = [np.concatenate(x).astype(np.int64) for x in (prompt, completion, tokens, many)]
    return Figures(
        flat[0], flat[1], np.array(longest, np.int64), flat[2], flat[3],
        counted, n - len(seen_rows), n - len(seen_prompts),
    )  # fmt: skip


def batch_plan(found: Figures, partition: Sequence[Sequence[int]]) -> BatchPlan:
    """What the batches of a partition hold; of a prompt alone, the prompt."""
    sequences = np.maximum(found.completions, 1)
    groups = [np.asarray(rows, np.int64) for rows in partition]
    return BatchPlan(
        np.array([len(g) for g in groups]),
        np.array([found.tokens[g].sum() for g in groups]),
        np.array([sequences[g].sum() * found.row[g].max() for g in groups]),
    )


def _flat(lists: pa.ChunkedArray | pa.ListArray) -> tuple[pa.Array, np.ndarray]:
    """The values of lists, one after another, and where each list starts (and the last ends)."""
    whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    offsets = whole.offsets.to_numpy()
    values = whole.values.slice(offsets[0], offsets[-1] - offsets[0])
    return values, offsets - offsets[0]
