"""The state of stages on disk, and what a start has to do about each."""

from __future__ import annotations

import hashlib
import json
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
from lightning_rlhf.text.writing import replacing, writing

BEGUN, DONE = "begun.json", "done.json"
FORGOTTEN = "done.json.old"  # of a stage that was asked to run again
REPORT_ONLY = ("about", "report")  # keys that do not change results
WRITTEN = {"reference_cache", "journal", "outputs"}  # keys of files that a stage writes
WRITTEN_BY_TRAINER = {"path", "folder", "dirpath", "save_dir", "default_root_dir"}
SHAPES: dict[str, dict[str, type]] = {
    BEGUN: {"key": str, "inputs": dict},
    DONE: {"key": str, "inputs": dict, "outputs": dict, "metrics": dict, "answers": list},
}
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
        key = key_of(stage, [step.key for step in before], _inputs_then(stage))
        running = [step.stage.name for step in before if step.action != "skip"]
        inputs = {s.stage.name: "" if s.action != "skip" else _run_of(s.stage) for s in before}
        action, reason = _decide(stage, key, inputs, running=running, fresh=stage in again)
        if action == "run":
            key = key_of(stage, [step.key for step in before])
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


def key_of(stage: PreparedStage, before: list[str], inputs: list[str] | None = None) -> str:
    """Hash a stage's config, the files it reads, and the keys of the stages it depends on.

    References are hashed unresolved, so a recipe's folder can be moved.

    Args:
        stage: prepared.
        before: the keys of the stages it depends on.
        inputs: the files that were there when it began: one that came later is its own work. None
            for those that are there now.
    """
    spec = {k: v for k, v in stage.stage.spec.items() if k not in REPORT_ONLY}
    files = {
        name: content
        for name in (inputs_of(stage) if inputs is None else inputs)
        if (content := _content(Path(name)))
    }
    text = json.dumps([spec, stage.seed, files, before], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inputs_of(stage: PreparedStage) -> list[str]:
    """List the files outside of the recipe that a stage names and does not write."""
    spec = _without({k: v for k, v in stage.stage.spec.items() if k not in REPORT_ONLY}, WRITTEN)
    spec["trainer"] = _without(spec.get("trainer"), WRITTEN_BY_TRAINER)
    named = sorted({text for text in strings(spec) if "{" not in text})
    return [text for text in named if _content(Path(text))]


def _without(value: Any, keys: set[str]) -> Any:
    """Leave out some keys, at any depth."""
    if isinstance(value, list):
        return [_without(part, keys) for part in value]
    if not isinstance(value, dict):
        return value
    return {k: _without(v, keys) for k, v in value.items() if k not in keys}


def _inputs_then(stage: PreparedStage) -> list[str] | None:
    """Return the inputs that were there when the stage began; None if nobody noted them."""
    inputs: list[str] | None = (read(stage, DONE) or read(stage, BEGUN)).get("files")
    return inputs


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
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            _set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
    files = inputs_of(step.stage)
    write(folder / BEGUN, {"key": step.key, "inputs": step.inputs, "files": files})


def _set_aside(folder: Path) -> None:
    """Keep a stage's folder as ``NAME.old``; a finished one there gives way to a finished one."""
    old = folder.with_name(f"{folder.name}.old")
    if _has_ended(old) and not _has_ended(folder):
        shutil.rmtree(folder)
        return
    if old.exists():
        shutil.rmtree(old)
    folder.replace(old)


def _has_ended(folder: Path) -> bool:
    return any((folder / name).exists() for name in (DONE, FORGOTTEN))


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
        "files": read(stage, BEGUN).get("files", []),
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
        done = stage.folder / DONE
        if done.exists():
            done.replace(stage.folder / FORGOTTEN)
        (stage.folder / BEGUN).unlink(missing_ok=True)


def read(stage: PreparedStage, name: str) -> dict[str, Any]:
    """Read one of a stage's files; empty if there is none.

    Raises:
        ValueError: the file is broken.
    """
    file = stage.folder / name
    fix = "delete the file, and the stage runs again"
    if not file.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(broken(file, error, fix=fix)) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({type(error).__name__}): {fix}") from error
    for key, kind in SHAPES[name].items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise ValueError(f"{file} is not one of ours, it has no {key} of ours: {fix}")
    return content


def write(file: Path, content: Any) -> None:
    """Write a JSON file that is complete or absent, also after a kill."""
    with replacing(file) as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace"))


def _run_of(stage: PreparedStage) -> str:
    return str(read(stage, DONE).get("run", ""))
