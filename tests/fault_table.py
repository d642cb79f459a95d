"""Every fault of the table: how it is made, what the command says, its exit status, what is left.

Each fault is one command in a process of its own, forked from one that has imported everything.
``tests/test_faults.py`` asserts the quick ones, ``benchmarks/faults.py`` all of them.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from kill_harness import forked
from lightning_rlhf.cli.main import main
from support import number_pairs

CONFIG = """
model:
  class_path: lightning_rlhf.{module}
  init_args:
    backbone:
      class_path: lightning_rlhf.Backbone
      init_args: {{name_or_path: base, dtype: float32, lora: {{r: 4}}}}
    lr: 0.01
    {more}
data:
  class_path: lightning_rlhf.{data}
  init_args: {{source: rows.jsonl, batch_size: 4, val_fraction: 0}}
trainer:
  accelerator: cpu
  max_steps: 6
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  default_root_dir: out
  logger: {{class_path: pytorch_lightning.loggers.CSVLogger, init_args: {{save_dir: out, name: run}}}}
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {{every_n_train_steps: 2, save_last: true, save_top_k: -1}}
"""
ONLINE = "sampling: {max_new_tokens: 4, num_samples: 2}\n    reward: fault_table.good"
RECIPE = """
folder: recipe
stages:
  - name: dpo
    model: {class_path: lightning_rlhf.DPOModule, init_args: {lr: 0.01, backbone: {class_path: lightning_rlhf.Backbone, init_args: {name_or_path: base, dtype: float32, lora: {r: 4}}}}}
    data: {class_path: lightning_rlhf.PreferenceData, init_args: {source: rows.jsonl, batch_size: 4, val_fraction: 0}}
    trainer: {accelerator: cpu, max_steps: 4, enable_progress_bar: false, enable_model_summary: false, log_every_n_steps: 1}
  - name: said
    verb: predict
    model: {class_path: lightning_rlhf.SFTModule, init_args: {backbone: {class_path: lightning_rlhf.Backbone, init_args: {name_or_path: base, dtype: float32, lora: {r: 4}, adapters: {policy: "{dpo.policy}"}}}}}
    data: {class_path: lightning_rlhf.PromptData, init_args: {source: rows.jsonl, max_rows: 8, batch_size: 4, val_fraction: 0}}
"""
FIRST, LAST = (
    "out/run/version_0/checkpoints/epoch=0-step=2.ckpt",
    "out/run/version_0/checkpoints/last.ckpt",
)
DPO, GRPO, SAID = "fit --config dpo.yaml", "fit --config grpo.yaml", "predict --config said.yaml"
CALLS = [0]


class Fault(NamedTuple):
    """A fault of a command, and what is promised of it."""

    name: str
    command: str
    says: str  # a pattern of its last lines
    before: Callable[[], Any] = lambda: None  # in the command's process, in its folder
    after: Callable[[], bool] = lambda: True  # whether what was finished is still there
    exit: int = 2
    quick: bool = False  # in ``make test`` too


# ---- rewards ----


def good(prompts: list[str], completions: list[str], rows: list[dict[str, Any]]) -> list[float]:
    return [float(len(text)) for text in completions]


def failing(how: str) -> Callable[[], None]:
    """Let the third call of the reward fail in some way."""

    def before() -> None:
        def wrong(prompts: list[str], completions: list[str], rows: list[Any]) -> Any:
            CALLS[0] += 1
            if CALLS[0] < 3:
                return right(prompts, completions, rows)
            return FAILURES[how](len(completions))

        right = good
        wrong.__name__ = wrong.__qualname__ = "good"
        globals()["good"] = wrong

    return before


def _raise(n: int) -> Any:
    raise KeyError("score")


def _hang(n: int, signals: tuple[int, ...] = (signal.SIGTERM,)) -> Any:
    for number in signals:
        os.kill(os.getpid(), number)
    time.sleep(300)


async def _coroutine(n: int) -> list[float]:
    return [0.0] * n


FAILURES: dict[str, Callable[[int], Any]] = {
    "raises": _raise,
    "returns None": lambda n: None,
    "returns text": lambda n: ["good"] * n,
    "is a coroutine": _coroutine,
    "has a wrong shape": lambda n: torch.zeros(n, 2),
    "is endless": lambda n: iter(int, 1),
    "is 1e300": lambda n: [1e300] * n,
    "is NaN": lambda n: [float("nan")] * n,
    "never returns, SIGTERM": _hang,
    "never returns, Ctrl-C twice": lambda n: _hang(n, (signal.SIGINT, signal.SIGINT)),
}


def newest_run() -> Path:
    return max(Path("out/run").glob("version_*"), key=lambda path: path.stat().st_mtime_ns)


def no_role() -> bool:
    return not (newest_run() / "policy").exists()


def stopped_whole() -> bool:
    """A checkpoint of the last whole step is there, can be read, and no role is."""
    run = newest_run()
    found = list(run.glob("checkpoints/stopped-step=*.ckpt"))
    finite = found and all(t.isfinite().all() for t in torch.load(found[0])["state_dict"].values())
    return bool(finite) and no_role()


def reward(how: str, says: str, exit: int = 2) -> Fault:
    return Fault(f"a reward {how}", GRPO, says, failing(how), stopped_whole, exit=exit)


# ---- files ----


def cut(path: str, share: float = 0.5) -> Callable[[], None]:
    def before() -> None:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: int(share * len(data))])

    return before


def text(path: str, content: str | bytes) -> Callable[[], None]:
    def before() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        Path(path).write_bytes(data)

    return before


def flip(path: str) -> Callable[[], None]:
    """Flip one bit in the middle of the largest tensor."""

    def before() -> None:
        data = bytearray(Path(path).read_bytes())
        data[len(data) // 2] ^= 16
        Path(path).write_bytes(data)

    return before


def folder_at(path: str) -> Callable[[], None]:
    def before() -> None:
        Path(path).unlink(missing_ok=True)
        Path(path, "in the way").mkdir(parents=True)

    return before


def small_files(limit: int) -> Callable[[], None]:
    """Let the disk be full for every file beyond a size."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return before


def tensors(path: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[], None]:
    def before() -> None:
        held = load_file(path)
        change(held)
        save_file(held, path, metadata={"format": "pt"})

    return before


def stored(path: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[], None]:
    def before() -> None:
        held = torch.load(path)
        change(held)
        torch.save(held, path)

    return before


def nan_weights(checkpoint: dict[str, Any]) -> None:
    next(iter(checkpoint["state_dict"].values())).fill_(float("nan"))


def evil(path: str) -> Callable[[], None]:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, ("ran",)

    def before() -> None:
        torch.save({"state_dict": Evil()}, path)

    return before


def other_base() -> None:
    tensors("base/model.safetensors", lambda held: held["model.embed_tokens.weight"].add_(1))()


def locked(path: str) -> Callable[[], None]:
    def before() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if os.fork() == 0:
            for handle in (1, 2):  # nobody waits for what it says
                os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
            with FileLock(path):
                Path(f"{path}.held").touch()
                time.sleep(20)
            os._exit(0)
        while not Path(f"{path}.held").exists():
            time.sleep(0.01)

    return before


def old_rows(n: int = 40) -> bool:
    """The rows of a finished predict are whole, under their name or as NAME.old."""
    files = [Path("out/rows.jsonl"), Path("out/rows.jsonl.old")]
    return any(f.is_file() and f.read_text().count("\n") == n for f in files)


def unchanged(path: str) -> Callable[[], bool]:
    return lambda: Path(path).read_bytes() == Path("../kept", path).read_bytes()


def both_whole() -> bool:
    return unchanged(FIRST)() and unchanged(LAST)()


# ---- steps ----


def after_steps(n: int, then: Callable[[Any], Any], module: str = "dpo") -> Callable[[], None]:
    """Do something in the n-th batch of a fit, or of a predict."""

    def before() -> None:
        from lightning_rlhf.modules.base import AlignmentModule
        from lightning_rlhf.modules.dpo import DPOModule

        kind, name = (
            (AlignmentModule, "predict_step") if module == "said" else (DPOModule, "training_step")
        )
        work = getattr(kind, name)

        def wrapped(self: Any, *args: Any) -> Any:
            CALLS[0] += 1
            result = work(self, *args)
            return then(result) if CALLS[0] == n else result

        setattr(kind, name, wrapped)

    return before


def kill(number: int) -> Callable[[Any], Any]:
    return lambda result: os.kill(os.getpid(), number) or result


def out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def little_memory() -> None:
    """Let no more than three completions be sampled together."""
    from lightning_rlhf.models import sampler

    start = sampler._start

    def limited(backbone: Any, role: str, texts: list[Any], rules: Any) -> Any:
        if len(texts) > 3:
            out_of_memory()
        return start(backbone, role, texts, rules)

    sampler._start = limited  # type: ignore[assignment]


def journal(line: str) -> Callable[[], None]:
    good_line = '{"key": "k", "text": "w1", "finished": true}\n'
    return text("out/journal.jsonl", f"{good_line}{line}\n{good_line}")


CRITIQUE = "predict --config critique.yaml"
RESUME = f"{DPO} --ckpt_path {LAST} --trainer.max_steps 8"
ADAPTER = "fit --config dpo.yaml --model.backbone.adapters {policy:\\ kept_role}"
DAMAGED = rf"the checkpoint {LAST} is damaged, .*: go on from .*step=\d.ckpt, the one before it"
FAULTS = [
    # rewards
    reward("raises", r"the reward good raised KeyError: 'score' .*first prompt 'w"),
    reward("returns None", r"the reward good returned None .first prompt 'w"),
    reward("returns text", r"the reward good gave 'good' for 'w.* to the prompt 'w"),
    reward("is a coroutine", r"the reward good returned a coroutine, which nobody awaits"),
    reward("has a wrong shape", r"the reward good gave tensor.* to the prompt 'w"),
    reward("is endless", r"the reward good gave 9 or more scores for 8 completions"),
    reward("is 1e300", r"the reward good gave 1e\+300 for 'w.* finite numbers, below 3.4e38"),
    reward("is NaN", r"the reward good gave nan for 'w"),
    reward("never returns, SIGTERM", r"stopped by SIGTERM; .*stopped-step=\d+.ckpt; go on", 143),
    reward("never returns, Ctrl-C twice", r"stopped by Ctrl-C; .*step=\d+.ckpt; go on with", 130),
    # numbers
    Fault(
        "a learning rate that makes the weights infinite", f"{DPO} --model.lr 1e38 --model.warmup 0",
        r"(the loss is nan|a gradient is not finite) in step 2, so the run stops before it",
        after=no_role,
    ),
    Fault(
        "a loss that is NaN in the fourth batch", DPO,
        r"the loss is nan|a gradient is not finite in step 4, so the run stops before it",
        after_steps(4, lambda loss: loss * float("nan")), stopped_whole,
    ),
    Fault(
        "NaN in bf16 on the base", f"{DPO} --model.backbone.dtype bfloat16 --model.lr 1e38",
        r"in step \d, so the run stops before it",
        after=no_role,
    ),
    # checkpoints
    Fault("a truncated checkpoint", RESUME, DAMAGED, cut(LAST), unchanged(FIRST), quick=True),
    Fault("a checkpoint with a flipped bit", RESUME, DAMAGED, flip(LAST), unchanged(FIRST)),
    Fault("an empty checkpoint", RESUME, DAMAGED, cut(LAST, 0), unchanged(FIRST)),
    Fault(
        "`last`, damaged", f"{DPO} --ckpt_path last --trainer.max_steps 8", r"is damaged, .*go on",
        cut(LAST, 0.7), unchanged(FIRST),
    ),
    Fault(
        "`last`, after the logger has counted up",
        f"{DPO} --ckpt_path last --trainer.max_steps 8", r"policy saved to out/run/version_2",
        after=both_whole, exit=0, quick=True),
    Fault(
        "`last`, where there is none", f"{DPO} --ckpt_path last",
        r"there is no last checkpoint \(searched out/run", lambda: shutil.rmtree("out"),
    ),
    Fault(
        "`last`, of other settings", f"{DPO} --ckpt_path last --data.seed 3",
        r"is of a run with other settings: data.seed \(there 0, here 3\); give its path",
        after=both_whole,
    ),
    Fault("a checkpoint that holds code", RESUME, r"holds more than weights", evil(LAST),
          lambda: not Path("ran").exists()),
    Fault("a pickle for a checkpoint", RESUME, r"is not a checkpoint of a run",
          text(LAST, pickle.dumps({"a": 1}))),
    Fault("a checkpoint of NaN", RESUME, r"holds NaN or infinite weights, first in",
          stored(LAST, nan_weights)),
    Fault("a checkpoint of weights alone", RESUME, r"holds weights and no optimizer_states",
          stored(LAST, lambda held: held.pop("optimizer_states"))),
    Fault("a checkpoint of another base", RESUME, r"is of another base model: it was trained on",
          other_base, both_whole),
    Fault("a disk that is full at a checkpoint", f"{DPO} --trainer.default_root_dir out",
          r"checkpoint.*cannot be written: File too large; free some space", small_files(30_000),
          both_whole),
    Fault("a file where the run's folder is to be", f"{DPO} --trainer.logger.init_args.version 9",
          r"version_9.*(File exists|Not a directory); something is in the way",
          text("out/run/version_9", "")),
    # roles and models
    Fault("an adapter that is truncated", ADAPTER, r"adapter_model.safetensors cannot be read",
          cut("kept_role/adapter_model.safetensors")),
    Fault("an adapter that is empty", ADAPTER, r"adapter_model.safetensors cannot be read",
          cut("kept_role/adapter_model.safetensors", 0)),
    Fault("an adapter without a config", ADAPTER, r"kept_role holds no adapter_config.json: give",
          lambda: Path("kept_role/adapter_config.json").unlink()),
    Fault("an adapter whose config is not JSON", ADAPTER, r"adapter_config.json cannot be read",
          text("kept_role/adapter_config.json", "{")),
    Fault("an adapter of NaN", ADAPTER, r"kept_role holds NaN or infinite weights",
          tensors("kept_role/adapter_model.safetensors",
                  lambda held: next(iter(held.values())).fill_(float("nan")))),
    Fault("a model that is truncated", DPO, r"the model base cannot be read \(.*: download",
          cut("base/model.safetensors")),
    Fault("a model whose config is not JSON", DPO, r"base cannot be read \(.*: download or save",
          text("base/config.json", "{")),
    Fault("a model that lacks weights", DPO, r"the model base lacks 1 of its weights, such as",
          tensors("base/model.safetensors", lambda held: held.pop("model.norm.weight"))),
    Fault("a tokenizer that is not JSON", DPO, r"the tokenizer of base cannot be read",
          text("base/tokenizer.json", "[")),
    # caches and journals
    Fault("a reference cache that is not a database", f"{DPO} --model.reference_cache ref.db",
          r"the reference cache ref.db: file is not a database; delete it",
          text("ref.db", "text " * 999)),
    Fault("a folder where the reference cache is to be", f"{DPO} --model.reference_cache ref.db",
          r"the reference cache ref.db: unable to open database file; give a path",
          folder_at("ref.db")),
    Fault("a disk that is full at the reference cache", f"{DPO} --model.reference_cache ref.db",
          r"ref.db.*(disk I/O error|full).*free some space", after_steps(1, lambda loss: small_files(8_000)() or loss)),
    Fault("a journal with a list as a key", CRITIQUE, r"journal.jsonl line 2 is not an answer",
          journal('{"key": [1], "text": "w1", "finished": true}')),
    Fault("a journal without a text", CRITIQUE, r"journal.jsonl line 2 is not an answer",
          journal('{"key": "a"}')),
    Fault("a journal that is not JSON", CRITIQUE, r"journal.jsonl line 2 is broken JSON",
          journal("{")),
    # rows
    Fault("a disk that is full at the rows", SAID, r"rows.jsonl cannot be written: File too large",
          after_steps(3, lambda rows: small_files(200)() or rows, "said"), old_rows, quick=True),
    Fault("a folder where the rows are to be", SAID, r"something is in the way",
          folder_at("out/rows.jsonl")),
    Fault("two predicts of one file", SAID, r"another process is writing out/rows.jsonl: wait",
          locked("out/.rows.jsonl.lock"), old_rows),
    Fault("two fits of one folder", f"{DPO} --trainer.logger.init_args.version 0",
          r"another process is writing .*version_0.*start again", locked("out/run/version_0/.run.lock"),
          both_whole),
    # recipes
    Fault("a recipe whose state is half", "run recipe.yaml", r"done.json line \d+ is broken JSON",
          cut("recipe/dpo/done.json", 0.1)),
    Fault("a recipe whose state is a list", "run recipe.yaml", r"done.json is not one of ours",
          text("recipe/dpo/done.json", "[]")),
    Fault("a disk that is full at the report", "run recipe.yaml",
          r"(report|recipe).*cannot be written: File too large; free some", small_files(2_000),
          unchanged("recipe/report.html")),
    Fault("two runs of one recipe", "run recipe.yaml", r"another process is writing",
          locked("recipe/.recipe.lock"), unchanged("recipe/report.html")),
    # signals
    Fault("SIGTERM in a fit", DPO, r"stopped by SIGTERM; .*stopped-step=3.ckpt; go on with: light",
          after_steps(3, kill(signal.SIGTERM)), stopped_whole, exit=143),
    Fault("Ctrl-C in a fit", DPO, r"stopped by Ctrl-C; .*stopped-step=4.ckpt; go on with: lightn",
          after_steps(4, kill(signal.SIGINT)), stopped_whole, exit=130, quick=True),
    Fault("SIGTERM in a predict", SAID, r"stopped by SIGTERM; go on with: lightning-rlhf predict",
          after_steps(3, kill(signal.SIGTERM), "said"), old_rows, exit=143, quick=True),
    Fault("Ctrl-C in a recipe", "run recipe.yaml --from dpo",
          r"stopped by Ctrl-C; .*go on with: lightning-rlhf run recipe.yaml$",
          after_steps(2, kill(signal.SIGINT)), exit=130),
    # memory
    Fault("memory that runs out in a step", DPO,
          r"memory ran out in step 3: give data.batch_size=2 and trainer.accumulate_grad_batches=2",
          after_steps(3, out_of_memory), stopped_whole),
    Fault("memory that runs out while sampling", GRPO, r"policy saved to", little_memory, exit=0),
]  # fmt: skip


class Outcome(NamedTuple):
    """What a fault came to."""

    exit: int
    said: str
    kept: bool
    foreign: bool  # whether it ended in a traceback


def make_place(home: Path, base: Path, recipe: bool = True) -> None:
    """Make a folder in which a fit, a predict and a recipe have ended well: ``kept``."""
    kept = home / "kept"
    kept.mkdir()
    shutil.copytree(base, kept / "base")
    rows = "".join(json.dumps(row) + "\n" for row in number_pairs(40))
    (kept / "rows.jsonl").write_text(rows)
    (kept / "dpo.yaml").write_text(
        CONFIG.format(module="DPOModule", data="PreferenceData", more="")
    )
    (kept / "grpo.yaml").write_text(
        CONFIG.format(module="GRPOModule", data="PromptData", more=ONLINE)
    )
    said = CONFIG.format(module="SFTModule", data="PromptData", more="")
    rows_of = "  callbacks:\n    - {class_path: lightning_rlhf.callbacks.WriteRows, init_args: {path: out/rows.jsonl}}\n"
    head = said[: said.index("  callbacks:")]
    (kept / "said.yaml").write_text(head + rows_of)
    (kept / "recipe.yaml").write_text(RECIPE)
    critique = head.replace(
        "    lr: 0.01\n",
        "    journal: out/journal.jsonl\n    template: raw\n",
    )
    (kept / "critique.yaml").write_text(critique.replace("SFTModule", "SelfCritiqueModule"))

    def work() -> None:
        os.chdir(kept)
        for command in (DPO, SAID, *["run recipe.yaml"] * recipe):
            main(command.split())
        shutil.copytree("out/run/version_0/policy", "kept_role")

    code, said = heard(work)
    assert code == 0, said[-3000:]


def _say_into(handle: int) -> None:
    """Send this process's output, and its loggers', into a pipe."""
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)


def heard(work: Callable[[], Any]) -> tuple[int, str]:
    """Do the work in a child process; return its exit code and what it said."""
    inside, outside = os.pipe()
    chunks: list[bytes] = []

    def listen() -> None:
        while data := os.read(inside, 1 << 16):
            chunks.append(data)

    def child() -> None:
        _say_into(outside)
        work()

    listener = Thread(target=listen)
    listener.start()
    code = forked(child)
    os.close(outside)
    listener.join()
    os.close(inside)
    return code, b"".join(chunks).decode(errors="replace")


def run_fault(fault: Fault, home: Path) -> Outcome:
    """Make a fault in a copy of the place, and look at what is left."""
    place = home / "place"
    shutil.copytree(home / "kept", place)

    def work() -> None:
        os.chdir(place)
        random.seed(0)
        CALLS[0] = 0
        torch.set_num_threads(1)
        arguments = [a.replace("\0", " ") for a in fault.command.replace("\\ ", "\0").split()]
        fault.before()
        try:
            main(arguments)
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1 if end.code else 0)

    code, said = heard(work)

    def look() -> None:
        os.chdir(place)
        os._exit(0 if fault.after() else 3)

    kept = forked(look) == 0
    shutil.rmtree(place)
    return Outcome(code, said, kept, foreign="Traceback (most recent call last)" in said)


def verdict(fault: Fault, outcome: Outcome) -> str:
    """Say what was promised and not kept; empty if all was."""
    wrong = []
    if outcome.exit != fault.exit:
        wrong.append(f"exit {outcome.exit}, not {fault.exit}")
    if outcome.foreign:
        wrong.append("a traceback")
    if not re.search(fault.says, outcome.said, re.M):
        wrong.append("another sentence")
    if not outcome.kept:
        wrong.append("something finished is lost")
    return "; ".join(wrong)
