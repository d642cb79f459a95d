"""Two real processes: the same weights in both, other rows in each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import number_pairs

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from lightning_rlhf import Backbone, DPOModule, KTOModule, LoRA, PreferenceData, RewardModule

torch.set_num_threads(1)
base, out, rows = sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())

class Seen(Callback):
    def __init__(self):
        self.digests = []
    def on_train_batch_start(self, trainer, module, batch, i):
        self.digests += batch.digest[batch.chosen, 0].tolist()

found = {}
for module, size in (
    (DPOModule, {"batch_size": 4}),
    (RewardModule, {"batch_size": 4}),
    (KTOModule, {"max_tokens": 40}),
):
    seed_everything(0, verbose=False)
    backbone = Backbone(base, quantization="nf4", lora=LoRA(r=4), dtype="float32")
    seen = Seen()
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, callbacks=[seen],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    method = module(backbone, lr=1e-2)
    trainer.fit(method, PreferenceData(rows, val_fraction=0.25, **size))
    parameters = backbone.role_parameters(method.trained[0])
    found[module.__name__] = {
        "weights": [float(p.double().sum()) for p in parameters],
        "seen": seen.digests,
        "accuracy": float(trainer.callback_metrics["val/rewards/accuracies"]),
    }
(out / f"{trainer.global_rank}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_ddp_on_a_4_bit_base(tiny_base: str, tmp_path: Path) -> None:
    script, rows = tmp_path / "run.py", tmp_path / "rows.json"
    script.write_text(SCRIPT)
    rows.write_text(json.dumps(number_pairs(80)))
    done = subprocess.run(
        [sys.executable, str(script), tiny_base, str(tmp_path), str(rows)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    everything: set[int] = set()
    for method in first:
        assert first[method]["weights"] == second[method]["weights"]
        assert first[method]["accuracy"] == second[method]["accuracy"]
        seen = [set(found[method]["seen"]) for found in (first, second)]
        assert min(map(len, seen)) >= 20
        # an odd row, or batch, is repeated, so that both take as many steps
        assert len(seen[0] & seen[1]) <= (8 if method == "KTOModule" else 1)
        everything = everything or seen[0] | seen[1]
        assert seen[0] | seen[1] == everything
