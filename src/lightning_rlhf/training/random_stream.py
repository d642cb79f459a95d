"""Random numbers that depend on a key alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_stream(device: torch.device, *key: int) -> Iterator[None]:
    """Seed torch's generators from a key, and restore them afterwards.

    So other draws (a validation's loader makes some) change nothing inside, and a resumed run draws
    what the uninterrupted one did.
    """
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=7).digest()
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest, "big"))
        yield
