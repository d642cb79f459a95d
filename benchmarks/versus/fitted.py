"""Our side in a real Trainer: how far memory rises in a step above what is held between steps."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import measure
import torch
from ours import build
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from lightning_rlhf.planning.meta import storages


class Peak(Callback):
    """Memory in MiB from the end of the first optimizer step to the end of the second."""

    def __init__(self, accumulate: int):
        self.accumulate = accumulate
        self.before = self.rise = self.static = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == self.accumulate:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            self.before = measure.mib("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        elif batch_idx + 1 == 2 * self.accumulate:
            self.rise = measure.mib("VmHWM") - self.before
            states = trainer.optimizers[0].state.values()
            kept = [t for state in states for t in state.values() if isinstance(t, torch.Tensor)]
            held = {t.untyped_storage().data_ptr(): t for t in [*storages(pl_module), *kept]}
            self.static = sum(t.untyped_storage().nbytes() for t in held.values()) / 2**20


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    work = measure.load()
    module, batch = build(work)
    peak = Peak(work["accumulate"])
    Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision=work["precision"], max_steps=2, callbacks=[peak],
        accumulate_grad_batches=peak.accumulate,
    ).fit(module, DataLoader([batch] * 2 * peak.accumulate, batch_size=None))  # fmt: skip
    print(json.dumps({"rise": peak.rise, "static": peak.static}), file=answers, flush=True)


if __name__ == "__main__":
    main()
