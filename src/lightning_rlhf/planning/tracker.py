"""Count live bytes of tensor storages while operators run: by kind, at each phase's peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACTIVATIONS, HEAD = "activations", "head tiles"


class MemoryTracker(TorchDispatchMode):
    """Counts each storage once, from the operator that creates it to its end; on meta as on a CPU.

    It cannot see what a kernel allocates and frees inside.

    Args:
        phase: returns the name of the step's phase; called for every new storage.
        vocabulary: a storage whose tensor has this many columns is a tile of logits.
    """

    def __init__(self, phase: Callable[[], str], vocabulary: int):
        super().__init__()
        self.phase = phase
        self.vocabulary = vocabulary
        self.live: Counter[str] = Counter()  # kind -> bytes
        self.peaks: dict[str, Counter[str]] = {}  # phase -> the bytes of each kind at its peak
        self._known: set[int] = set()

    def hold(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            self._see(tensor, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                wide = leaf.dim() > 1 and leaf.shape[-1] == self.vocabulary
                self._see(leaf, HEAD if wide else ACTIVATIONS)
        return out

    def _see(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live[kind] += size
        weakref.finalize(storage, self._release, key, kind, size)
        phase = self.phase()
        if sum(self.live.values()) > sum(self.peaks.get(phase, Counter()).values()):
            self.peaks[phase] = self.live.copy()

    def _release(self, key: int, kind: str, size: int) -> None:
        self._known.discard(key)
        self.live[kind] -= size
