"""What is known on disk of a stage: begun, done, and of what it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.recipes.prepare import Prepared
from lightning_rlhf.recipes.references import strings
from lightning_rlhf.text.suggest import did_you_mean

BEGUN, DONE = "begun.json", "done.json"
SAID_ONLY = ("about", "report")  # what changes no result


class Step(NamedTuple):
    """A stage, and what is to be done about it."""

    stage: Prepared
    key: str  # of its config and of all it is made from
    inputs: dict[str, str]  # stage -> the run of it that this one takes from; "" of one to come
    will: str  # "skip", "go on" or "run"
    why: str


def plan(stages: list[Prepared], fresh_from: str | None = None) -> list[Step]:
    """What a start would do with every stage.

    Args:
        stages: in their order.
        fresh_from: this stage and those behind it run again, whatever they left.
    """
    steps: dict[str, Step] = {}
    again = from_stage(stages, fresh_from) if fresh_from is not None else []
    for stage in stages:
        before = [steps[name] for name in stage.after]
        key = key_of(stage, [step.key for step in before])
        running = [step.stage.name for step in before if step.will != "skip"]
        inputs = {s.stage.name: "" if s.will != "skip" else _run_of(s.stage) for s in before}
        will, why = _decide(stage, key, inputs, running, stage in again)
        steps[stage.name] = Step(stage, key, inputs, will, why)
    return list(steps.values())


def _decide(
    stage: Prepared, key: str, inputs: dict[str, str], running: list[str], fresh: bool
) -> tuple[str, str]:
    done, begun = read(stage, DONE), read(stage, BEGUN)
    if fresh:
        return "run", "asked for"
    if done and done["key"] == key and done["inputs"] == inputs:
        kept = (p for n, p in stage.outputs.items() if n in done["outputs"] and n != "checkpoint")
        lost = next((path for path in kept if not Path(path).exists()), None)
        return ("run", f"{lost} is gone") if lost else ("skip", "done")
    if begun and begun["key"] == key and begun["inputs"] == inputs and not done:
        return "go on", "stopped in the middle"
    if running and (done or begun):
        return "run", f"{running[0]} runs"
    if (done or begun).get("key") == key:
        return "run", "what it is made from ran again"
    return "run", "changed" if done or begun else "new"


def key_of(stage: Prepared, before: list[str]) -> str:
    """A hash of a stage's config, of the files it reads, and of the stages it takes from.

    References count as they are written, so that a recipe's folder can be moved.
    """
    spec = {k: v for k, v in stage.stage.spec.items() if k not in SAID_ONLY}
    outside = {text: _content(Path(text)) for text in set(strings(spec)) if "{" not in text}
    files = {text: content for text, content in outside.items() if content}
    text = json.dumps([spec, stage.seed, files, before], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    """A file by its bytes, a model's folder by names, sizes, times; nothing of anything else."""
    try:
        if path.is_file():
            return _digest(path, path.stat().st_size, path.stat().st_mtime_ns)
        if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            files = sorted(f for f in path.iterdir() if f.is_file())
            return " ".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)
    except OSError:  # a text too long to be a path
        pass
    return ""


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def begin(step: Step) -> None:
    """Make the stage's folder ready: one of another config is set aside as ``NAME.old``."""
    folder = step.stage.folder
    if step.will == "go on":
        return
    if folder.exists() and any(folder.iterdir()):
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / BEGUN, {"key": step.key, "inputs": step.inputs})


def finish(step: Step, seconds: float, metrics: dict[str, Any], answers: list[Any]) -> None:
    """Say that a stage is done, in one stroke.

    Raises:
        ValueError: what it was to leave is not there.
    """
    stage = step.stage
    declared = stage.spec.get("outputs", {})
    lost = [n for n in declared if not Path(stage.outputs[n]).exists()]
    if lost:
        raise ValueError(f"it left no {stage.outputs[lost[0]]}, which its `outputs:` promise")
    done = {
        "stage": stage.name,
        "verb": stage.stage.verb,
        "run": uuid.uuid4().hex,
        "key": step.key,
        "inputs": step.inputs,
        "outputs": {n: path for n, path in stage.outputs.items() if Path(path).exists()},
        "seed": stage.seed,
        "seconds": round(seconds, 2),
        "resumed": step.will == "go on",
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "metrics": metrics,
        "answers": answers,
    }
    write(stage.folder / DONE, done)


def from_stage(stages: list[Prepared], name: str) -> list[Prepared]:
    """A stage and those behind it.

    Raises:
        ValueError: there is none of that name.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise ValueError(f"--from {name}: there is no such stage: {did_you_mean(name, names)}")
    return stages[names.index(name) :]


def forget(stages: list[Prepared]) -> None:
    """Let stages run again, also where this start is killed before it comes to them."""
    for stage in stages:
        for name in (DONE, BEGUN):
            (stage.folder / name).unlink(missing_ok=True)


def read(stage: Prepared, name: str) -> dict[str, Any]:
    """One of a stage's files; nothing where there is none."""
    file = stage.folder / name
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def write(file: Path, content: Any) -> None:
    """A JSON file that is there whole or not at all."""
    half = file.with_name(f"{file.name}.half")
    with half.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.flush()
        os.fsync(stream.fileno())
    half.replace(file)


def _run_of(stage: Prepared) -> str:
    return str(read(stage, DONE).get("run", ""))
