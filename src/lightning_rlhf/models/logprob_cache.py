"""Reference log-probs, computed once per text and kept on disk."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.functional.masking import segment_lengths
from lightning_rlhf.models.backbone import REFERENCE, Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.text.writing import writing


class LogprobCache:
    """One SQLite file of token log-probs, keyed by the text's tokens and the reference's weights.

    A key says everything the value depends on, so a changed file, template, order or model never
    meets a stale row. Several processes may share the file; a killed run loses nothing it computed.
    A value ends with its CRC-32; one that does not fit it counts as missing, and is replaced.

    Args:
        path: the file; made if absent.
        weights: digest of the weights that compute the log-probs, see ``weights_digest``.

    Raises:
        ValueError: the file is damaged or no cache, the disk is full, or it cannot be written.
    """

    def __init__(self, path: str | Path, weights: bytes):
        self.path = path
        self.weights = weights
        with writing(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self._refusals():
            self.file = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._share()
            self.file.execute(
                "CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, value BLOB)"
                " WITHOUT ROWID"
            )
            self.file.execute("SELECT key, value FROM logprobs LIMIT 1")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Raise what SQLite refuses as one sentence."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            said = str(error)
            fix = "delete it, and its log-probs are computed again"
            if "full" in said or "I/O" in said:
                fix = "free some space and start again, what was computed before is kept"
            elif "unable to open" in said or "readonly" in said:
                fix = "give a path that you can write to"
            elif "locked" in said:
                fix = "another process holds it: wait for it to end, or give another path"
            raise ValueError(f"the reference cache {self.path}: {said}; {fix}") from error

    def _share(self, timeout_s: float = 60) -> None:
        """Let readers and a writer work at once. SQLite's own timeout does not cover the switch."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.file.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:  # another process is switching it
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _keys(self, digests: Tensor) -> list[bytes]:
        return [self.weights + row.tobytes() for row in digests.cpu().numpy()]

    def get(self, digests: Tensor) -> Tensor | None:
        """Log-probs of all completions one after the other, or None if one is missing.

        Args:
            digests: (C, 2) int64.

        Returns:
            (N,) fp32 on the CPU.
        """
        found = []
        for key in self._keys(digests):
            with self._refusals():
                row = self.file.execute(
                    "SELECT value FROM logprobs WHERE key = ?", (key,)
                ).fetchone()
            value = None if row is None else _unsealed(row[0])
            if value is None:
                return None
            found.append(np.frombuffer(value, dtype=np.float32))
        return torch.from_numpy(np.concatenate(found))

    def put(self, digests: Tensor, logprobs: Tensor, lengths: Tensor) -> None:
        """Keep the log-probs of some completions.

        Args:
            digests: (C, 2) int64.
            logprobs: (N,) of their tokens, one completion after the other.
            lengths: (C,) tokens of each.
        """
        values = logprobs.detach().float().cpu().split(lengths.tolist())
        keys = self._keys(digests)
        rows = [(k, _sealed(v.numpy().tobytes())) for k, v in zip(keys, values, strict=True)]
        with self._refusals():
            try:
                self.file.execute("BEGIN IMMEDIATE")
                self.file.executemany("INSERT OR REPLACE INTO logprobs VALUES (?, ?)", rows)
                self.file.execute("COMMIT")
            except sqlite3.DatabaseError:
                if self.file.in_transaction:
                    self.file.execute("ROLLBACK")
                raise


def _sealed(value: bytes) -> bytes:
    return value + zlib.crc32(value).to_bytes(4, "big")


def _unsealed(stored: object) -> bytes | None:
    """Return a stored value without its checksum; None if bytes of it have changed."""
    if not isinstance(stored, bytes) or len(stored) % 4 or len(stored) < 4:
        return None
    return stored[:-4] if _sealed(stored[:-4]) == stored else None


class CachedReference:
    """The reference role of a backbone, its token log-probs computed once per text.

    Args:
        backbone: loaded, its reference no longer trained.
        path: file of the cache.
        precision: the Trainer's, on which log-probs depend as well.
    """

    def __init__(self, backbone: Backbone, path: str | Path, precision: str):
        weights = weights_digest(backbone.forward_weights(REFERENCE))
        self.backbone = backbone
        self.cache = LogprobCache(path, weights + precision.encode())

    def logprobs(self, tokens: TokenBatch, digests: Tensor) -> Tensor:
        """(N,) token log-probs: from the cache, else computed and kept.

        Args:
            tokens: C completions.
            digests: (C, 2) int64, the keys of their texts.
        """
        kept = self.cache.get(digests)
        if kept is not None:
            return kept.to(digests.device)
        logprobs = self.backbone.logprobs(tokens, REFERENCE)
        lengths = segment_lengths(tokens.completion_index, tokens.completions)
        self.cache.put(digests, logprobs, lengths)
        return logprobs
