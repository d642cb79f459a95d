"""The state of stages on disk, and what a start has to do about each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_rlhf.recipes.prepare import PreparedStage
from lightning_rlhf.recipes.references import strings
from lightning_rlhf.text.documents import broken
from lightning_rlhf.text.suggest import did_you_mean

BEGUN, DONE = "begun.json", "done.json"
REPORT_ONLY = ("about", "report")  # keys that do not change results
Action = Literal["skip", "resume", "run"]


class Step(NamedTuple):
    """A stage, and what a start does with it."""

    stage: PreparedStage
    key: str  # a hash of its config and of everything it depends on
    inputs: dict[str, str]  # stage it depends on -> id of that stage's run; "" if it has yet to run
    action: Action
    reason: str


def plan(stages: list[PreparedStage], fresh_from: str | None = None) -> list[Step]:
    """Decide what a start does with every stage.

    Args:
        stages: in their order.
        fresh_from: this stage and all after it run again, whatever is on disk.
    """
    steps: dict[str, Step] = {}
    again = from_stage(stages, fresh_from) if fresh_from is not None else []
    for stage in stages:
        before = [steps[name] for name in stage.after]
        key = key_of(stage, [step.key for step in before])
        running = [step.stage.name for step in before if step.action != "skip"]
        inputs = {s.stage.name: "" if s.action != "skip" else _run_of(s.stage) for s in before}
        action, reason = _decide(stage, key, inputs, running=running, fresh=stage in again)
        steps[stage.name] = Step(stage=stage, key=key, inputs=inputs, action=action, reason=reason)
    return list(steps.values())


def _decide(
    stage: PreparedStage, key: str, inputs: dict[str, str], *, running: list[str], fresh: bool
) -> tuple[Action, str]:
    done, begun = read(stage, DONE), read(stage, BEGUN)
    if fresh:
        return "run", "asked for"
    if done and done["key"] == key and done["inputs"] == inputs:
        kept = (p for n, p in stage.outputs.items() if n in done["outputs"] and n != "checkpoint")
        lost = next((path for path in kept if not Path(path).exists()), None)
        return ("run", f"{lost} is gone") if lost else ("skip", "done")
    if begun and begun["key"] == key and begun["inputs"] == inputs and not done:
        return "resume", "stopped in the middle"
    if running and (done or begun):
        return "run", f"{running[0]} runs"
    if (done or begun).get("key") == key:
        return "run", "a stage it depends on ran again"
    return "run", "changed" if done or begun else "new"


def key_of(stage: PreparedStage, before: list[str]) -> str:
    """Hash a stage's config, the files it reads, and the keys of the stages it depends on.

    References are hashed unresolved, so a recipe's folder can be moved.
    """
    spec = {k: v for k, v in stage.stage.spec.items() if k not in REPORT_ONLY}
    outside = {text: _content(Path(text)) for text in set(strings(spec)) if "{" not in text}
    files = {text: content for text, content in outside.items() if content}
    text = json.dumps([spec, stage.seed, files, before], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    """Describe a file by its bytes, a model's folder by names, sizes and times; else return ""."""
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
    """Prepare the stage's folder; the folder of another config is kept as ``NAME.old``."""
    folder = step.stage.folder
    if step.action == "resume":
        return
    if folder.exists() and any(folder.iterdir()):
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / BEGUN, {"key": step.key, "inputs": step.inputs})


def finish(step: Step, seconds: float, metrics: dict[str, Any], answers: list[Any]) -> None:
    """Write that a stage is done; the file is complete or absent.

    Raises:
        ValueError: a declared output is missing.
    """
    stage = step.stage
    declared = stage.spec.get("outputs", {})
    lost = [n for n in declared if not Path(stage.outputs[n]).exists()]
    if lost:
        raise ValueError(
            f"it did not write {stage.outputs[lost[0]]}: write it, or take {lost[0]} out of "
            "`outputs:`"
        )
    done = {
        "stage": stage.name,
        "verb": stage.stage.verb,
        "run": uuid.uuid4().hex,
        "key": step.key,
        "inputs": step.inputs,
        "outputs": {n: path for n, path in stage.outputs.items() if Path(path).exists()},
        "seed": stage.seed,
        "seconds": round(seconds, 2),
        "resumed": step.action == "resume",
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "metrics": metrics,
        "answers": answers,
    }
    write(stage.folder / DONE, done)


def from_stage(stages: list[PreparedStage], name: str) -> list[PreparedStage]:
    """Return a stage and all after it.

    Raises:
        ValueError: there is no stage of that name.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise ValueError(f"--from {name}: there is no such stage: {did_you_mean(name, names)}")
    return stages[names.index(name) :]


def forget(stages: list[PreparedStage]) -> None:
    """Make stages run again, also if this start is killed before it reaches them."""
    for stage in stages:
        for name in (DONE, BEGUN):
            (stage.folder / name).unlink(missing_ok=True)


def read(stage: PreparedStage, name: str) -> dict[str, Any]:
    """Read one of a stage's files; empty if there is none.

    Raises:
        ValueError: the file is broken.
    """
    file = stage.folder / name
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        fix = "delete the file, and the stage runs again"
        raise ValueError(broken(file, error, fix=fix)) from error
    return content


def write(file: Path, content: Any) -> None:
    """Write a JSON file that is complete or absent, also after a kill."""
    half = file.with_name(f"{file.name}.half")
    with half.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.flush()
        os.fsync(stream.fileno())
    half.replace(file)


def _run_of(stage: PreparedStage) -> str:
    return str(read(stage, DONE).get("run", ""))
