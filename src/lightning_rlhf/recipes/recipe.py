"""Read a recipe: its YAML, the defaults of all stages, and overrides."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from lightning_rlhf.text.documents import broken, not_utf8
from lightning_rlhf.text.suggest import did_you_mean

LOAD = get_loader("yaml")  # of the command line's parser: 1e-3 is a number
TRAINED = ("fit", "validate", "test", "predict")  # verbs of a Trainer
SECTIONS = ("model", "data", "trainer")
LISTS: dict[str, type] = {"args": dict, "outputs": dict, "needs": list, "report": list}
KEYS = ("name", "verb", *SECTIONS, "call", "ckpt_path", "seed", "about", *LISTS)
TOP = ("folder", "seed", "title", "subtitle", "defaults", "stages")


class Stage(NamedTuple):
    """A stage as it is written, with defaults and overrides; its references are not resolved."""

    name: str
    verb: str  # of a Trainer, or "call"
    spec: dict[str, Any]


class Recipe(NamedTuple):
    """The content of a recipe file."""

    file: Path
    folder: Path
    seed: int
    title: str  # of the report
    subtitle: str
    stages: list[Stage]


def read_recipe(file: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and check its keys.

    Args:
        file: the YAML file.
        overrides: such as ``stages.sft.trainer.max_steps=5`` or ``folder=runs/other``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or a key is wrong; names the stage and the key.
    """
    file = Path(file)
    written = _load(file)
    for override in overrides or []:
        set_dotted(written, override)
    _known(written, TOP, str(file))
    defaults = written.get("defaults") or {}
    _known(defaults, SECTIONS, f"{file}, defaults")
    stages = [_stage(item, defaults, i, file) for i, item in enumerate(written["stages"], 1)]
    names = [stage.name for stage in stages]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file}: two stages are called {twice}: give one of them another name")
    return Recipe(
        file=file,
        folder=Path(written.get("folder") or Path("runs") / file.stem),
        seed=int(written.get("seed") or 0),
        title=str(written.get("title") or file.stem),
        subtitle=str(written.get("subtitle") or f"{len(stages)} stages of {file.name}"),
        stages=stages,
    )


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no recipe at {file}")
    try:
        written = _quoted(LOAD(file.read_text(encoding="utf-8")))
    except yaml.MarkedYAMLError as error:
        raise ValueError(broken(file, error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(file, file.read_bytes())) from error
    if not isinstance(written, dict) or not isinstance(written.get("stages"), list):
        raise ValueError(f"{file} is not a recipe: give a list under `stages:` (docs/recipes.md)")
    return written


def _stage(item: Any, defaults: dict[str, Any], number: int, file: Path) -> Stage:
    if not isinstance(item, dict) or not isinstance(name := item.get("name"), str):
        raise ValueError(f"{file}: stage {number} has no name: give one, as `- name: sft`")
    where = f"{file}, stage {name}"
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in ("folder", "here"):
        raise ValueError(
            f"{where}: the name is a folder too: use letters, digits and _, not `folder` or `here`"
        )
    _known(item, KEYS, where)
    for key, kind in LISTS.items():
        if not isinstance(item.get(key, kind()), kind):
            raise ValueError(f"{where}: {key}: give a {kind.__name__}, not {item[key]!r}")
    verb = item.get("verb") or ("call" if "call" in item else "fit")
    if verb not in (*TRAINED, "call"):
        near = did_you_mean(verb, (*TRAINED, "call"))
        raise ValueError(f"{where}: there is no verb {verb}: {near}")
    lacks = [k for k in (("call",) if verb == "call" else ("model", "data")) if k not in item]
    if lacks:
        raise ValueError(f"{where}: {verb} needs `{lacks[0]}:`")
    foreign = (*SECTIONS, "ckpt_path") if verb == "call" else ("call", "args")
    if wrong := next((k for k in foreign if k in item), None):
        raise ValueError(f"{where}: {verb} does not take `{wrong}:`; take it out")
    if verb == "fit" and "ckpt_path" in item:
        raise ValueError(f"{where}: fit resumes from its own checkpoint: take `ckpt_path:` out")
    under = {} if verb == "call" else {k: defaults[k] for k in SECTIONS if k in defaults}
    return Stage(name, verb, merge(under, item))


def merge(under: Any, over: Any) -> Any:
    """Merge two configs deeply; lists and values of ``over`` replace those of ``under``."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return copy.deepcopy(over)
    both = {key: merge(under[key], over[key]) for key in under.keys() & over.keys()}
    return copy.deepcopy({**under, **over}) | both


def set_dotted(written: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in place: a stage goes by its name, ``init_args`` may be left out."""
    path, equals, value = override.partition("=")
    if not equals:
        raise ValueError(f"--set {override}: write NAME=VALUE, as stages.sft.trainer.max_steps=5")
    *parents, last = path.split(".")
    node: Any = written
    for key in parents:
        if isinstance(node, list):
            node = _stage_of(node, key, override)
        else:
            node = _inside(node, key).setdefault(key, {})
        if not isinstance(node, dict | list):
            raise ValueError(f"--set {override}: {key} is {node!r} and cannot hold {last}")
    if isinstance(node, list):
        raise ValueError(f"--set {override}: set one key of a stage, as {path}.trainer.max_steps")
    _inside(node, last)[last] = _quoted(LOAD(value))


def _inside(node: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping that a key belongs to: the ``init_args`` if the section is a class."""
    takes = "class_path" in node and key not in ("class_path", "init_args")
    inner: dict[str, Any] = node.setdefault("init_args", {}) if takes else node
    return inner


def _stage_of(stages: list[Any], name: str, override: str) -> Any:
    names = [str(s.get("name")) for s in stages if isinstance(s, dict)]
    if name not in names:
        raise ValueError(f"--set {override}: there is no stage {name}: {did_you_mean(name, names)}")
    return next(s for s in stages if isinstance(s, dict) and s.get("name") == name)


def _known(section: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    if not isinstance(section, dict):
        raise ValueError(f"{where}: got {section!r}: give a mapping")
    if wrong := next((key for key in section if key not in keys), None):
        raise ValueError(f"{where}: there is no key {wrong}: {did_you_mean(str(wrong), keys)}")


def _quoted(value: Any) -> Any:
    """Restore unquoted references, ``{sft.policy}``, which YAML reads as a mapping."""
    if isinstance(value, list):
        return [_quoted(v) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        key, inner = next(iter(value.items()))
        if inner is None and re.fullmatch(r"folder|here|[A-Za-z]\w*\.\w+", str(key)):
            return f"{{{key}}}"
    return {k: _quoted(v) for k, v in value.items()}
