"""Cached reference log-probs: found for their own text and model only, with several writers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time

import pytest
import torch

from lightning_rlhf.models.logprob_cache import LogprobCache

MINE, OTHER = b"m" * 16, b"o" * 16


def rows(start: int, n: int):
    """Digests, log-probs that follow from them, and lengths 1, 2, 3, 1, 2, 3..."""
    which = torch.arange(start, start + n)
    lengths = which % 3 + 1
    values = torch.cat(
        [-(w + torch.arange(int(k)) / 4) for w, k in zip(which, lengths, strict=True)]
    )
    return torch.stack([which * 7919 - 2**62, ~which], 1), values, lengths


def test_round_trip(tmp_path):
    cache = LogprobCache(tmp_path / "deep" / "cache.db", MINE)
    digests, values, lengths = rows(0, 9)
    cache.put(digests, values, lengths)
    assert torch.equal(cache.get(digests), values)
    assert cache.get(digests).dtype == torch.float32
    swapped = torch.cat([cache.get(digests[[4]]), cache.get(digests[[1]])])
    assert torch.equal(cache.get(digests[[4, 1]]), swapped)
    reopened = LogprobCache(tmp_path / "deep" / "cache.db", MINE)
    assert torch.equal(reopened.get(digests), values)


def test_one_missing_completion_is_none(tmp_path):
    cache = LogprobCache(tmp_path / "cache.db", MINE)
    cache.put(*rows(0, 4))
    assert cache.get(rows(0, 5)[0]) is None
    assert cache.get(rows(0, 4)[0]) is not None


def test_other_weights_miss(tmp_path):
    mine, other = (LogprobCache(tmp_path / "cache.db", f) for f in (MINE, OTHER))
    digests, values, lengths = rows(0, 3)
    mine.put(digests, values, lengths)
    assert other.get(digests) is None
    other.put(digests, values - 1, lengths)
    assert torch.equal(mine.get(digests), values)
    assert torch.equal(other.get(digests), values - 1)


def test_putting_again_replaces(tmp_path):
    cache = LogprobCache(tmp_path / "cache.db", MINE)
    digests, values, lengths = rows(0, 3)
    cache.put(digests, values * 3, lengths)
    cache.put(digests, values.bfloat16(), lengths)
    assert torch.equal(cache.get(digests), values.bfloat16().float())


# ---- several processes ----

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def write(path, start, puts):
    cache = LogprobCache(path, MINE)
    for i in range(puts):
        cache.put(*rows(start + 8 * i, 8))


def write_all(paths, gate, start):
    """Create each file at the same time as the other writer."""
    for path in paths:
        gate.wait(20)
        write(path, start, puts=4)


@fork
def test_two_processes_make_and_write_one_file(tmp_path):
    """No writer fails on a locked file, and no row is lost; both write half of the rows."""
    context = multiprocessing.get_context("fork")
    paths, gate = [tmp_path / f"{i}.db" for i in range(40)], context.Barrier(2)
    writers = [context.Process(target=write_all, args=(paths, gate, s)) for s in (0, 16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(90)
    assert [w.exitcode for w in writers] == [0, 0]
    digests, values, _ = rows(0, 48)
    for path in paths:
        assert torch.equal(LogprobCache(path, MINE).get(digests), values)


@fork
def test_killed_writer_leaves_what_it_wrote(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "cache.db"
    cache = LogprobCache(path, MINE)
    writer = context.Process(target=write, args=(path, 0, 10**6))
    writer.start()
    deadline = time.monotonic() + 30
    while cache.get(rows(0, 80)[0]) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL

    again = LogprobCache(path, MINE)
    digests, values, _ = rows(0, 80)
    assert torch.equal(again.get(digests), values)
    count = sqlite3.connect(path).execute("SELECT COUNT(*) FROM logprobs").fetchone()[0]
    assert count % 8 == 0, "a put is whole or not at all"
    assert torch.equal(again.get(rows(0, count)[0]), rows(0, count)[1])
    again.put(*rows(10**7, 8))
    assert torch.equal(again.get(rows(10**7, 8)[0]), rows(10**7, 8)[1])
