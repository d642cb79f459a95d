"""A predict that kills itself at five moments and is begun again: see test_constitutional.py.

python tests/killed_predict.py BASE FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from lightning_rlhf import Backbone, PromptData, Sampling, SelfCritiqueModule
from lightning_rlhf.callbacks import WriteRows
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.generators import role as responder
from support import number_pairs

# which call of a process, and whether before or after the model has answered
KILLS = [(2, "before"), (3, "after"), (1, "before"), (2, "after"), (4, "before")]
RULES = Constitution(
    "tiny", "1", tuple(Principle(f"p{i}", f"w{i}", f"w{i + 1}", f"w{i + 2}") for i in range(4))
)


def predict(base: str, folder: Path) -> None:
    """Write the chains of eight prompts, in two batches."""
    module = SelfCritiqueModule(
        Backbone(base, lora=None, dtype="float32"),
        SelfCritique(RULES, rounds=2, transcripts=(), seed=5),
        sampling=Sampling(max_new_tokens=6),
        template="raw",
        journal=str(folder / "journal.jsonl"),
    )
    rows = [{"prompt": row["prompt"]} for row in number_pairs(8)]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=folder,
        callbacks=[WriteRows(str(folder / "rows.jsonl"))],
    )  # fmt: skip
    trainer.predict(module, PromptData(rows, val_fraction=0, batch_size=4))


def dying(folder: Path, at: int, when: str) -> None:
    """Every answer made is counted; the process dies around one call."""
    plain, calls = responder.HFSampler.sample, [0]

    def sample(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        said = plain(self, *args)
        if calls[0] == at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "asked").open("a") as file:
            each = zip(args[2], args[4], strict=True)
            file.writelines(json.dumps([*prompt, seed]) + "\n" for prompt, seed in each)
        return said

    responder.HFSampler.sample = sample  # type: ignore[method-assign]


def leg(base: str, folder: Path, at: int, when: str) -> int:
    """One process; how it ended."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    dying(folder, at, when)
    predict(base, folder)
    os._exit(0)


def main(base: str, home: Path) -> None:
    """The unbroken run and the killed one."""
    quiet()
    ends = {}
    for name, kills in (("whole", []), ("killed", KILLS)):
        (home / name).mkdir()
        ends[name] = [leg(base, home / name, *kill) for kill in [*kills, (0, "never")]]
    (home / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
