"""Reference log-probs, computed once per text and kept on disk."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.functional.masking import segment_lengths
from lightning_rlhf.models.backbone import REFERENCE, Backbone


class LogprobCache:
    """One SQLite file of token log-probs, keyed by the text's tokens and the reference's weights.

    A key says everything the value depends on, so a changed file, template, order or model never
    meets a stale row. Several processes may share the file; a killed run loses nothing it computed.

    Args:
        path: the file; made if absent.
        fingerprint: of whoever computes the log-probs, see ``weights_fingerprint``.
    """

    def __init__(self, path: str | Path, fingerprint: bytes):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.fingerprint = fingerprint
        self.file = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._share()
        self.file.execute(
            "CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

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
        return [self.fingerprint + row.tobytes() for row in digests.cpu().numpy()]

    def get(self, digests: Tensor) -> Tensor | None:
        """Log-probs of all completions one after the other, or None if one is missing.

        Args:
            digests: (C, 2) int64.

        Returns:
            (N,) fp32 on the CPU.
        """
        found = []
        for key in self._keys(digests):
            row = self.file.execute("SELECT value FROM logprobs WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            found.append(np.frombuffer(row[0], dtype=np.float32))
        return torch.from_numpy(np.concatenate(found))

    def put(self, digests: Tensor, logprobs: Tensor, lengths: Tensor) -> None:
        """Keep the log-probs of some completions.

        Args:
            digests: (C, 2) int64.
            logprobs: (N,) of their tokens, one completion after the other.
            lengths: (C,) tokens of each.
        """
        values = logprobs.detach().float().cpu().split(lengths.tolist())
        rows = [(k, v.numpy().tobytes()) for k, v in zip(self._keys(digests), values, strict=True)]
        self.file.execute("BEGIN IMMEDIATE")
        self.file.executemany("INSERT OR REPLACE INTO logprobs VALUES (?, ?)", rows)
        self.file.execute("COMMIT")


class CachedReference:
    """The reference role of a backbone, its token log-probs computed once per text.

    Args:
        backbone: loaded, its reference no longer trained.
        path: file of the cache.
        precision: the Trainer's, on which log-probs depend as well.
    """

    def __init__(self, backbone: Backbone, path: str | Path, precision: str):
        weights = weights_fingerprint(backbone.reference_weights())
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


def weights_fingerprint(parameters: Mapping[str, Tensor], samples: int = 64) -> bytes:
    """16 bytes that tell one set of weights from another: names, shapes and values.

    A checksum of every bit, at memory speed wherever the weights lie: a step on an embedding moves
    the rows of a few tokens, which samples alone would miss. They tell one order from another.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(parameters.items()):
        hasher.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        state = getattr(parameter, "quant_state", None)
        scales = [] if state is None else [state.absmax]  # 4-bit codes are relative to them
        for tensor in (parameter.data, *scales):
            flat = tensor.contiguous().flatten()
            hasher.update(_bytes(flat[:: max(1, flat.numel() // samples)]))
            bits = flat.view(torch.uint8)
            if bits.storage_offset() % 8:
                bits = bits.clone()
            whole = len(bits) // 8 * 8
            hasher.update(_bytes(bits[:whole].view(torch.int64).sum()[None]))
            hasher.update(_bytes(bits[whole:]))
    return hasher.digest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
