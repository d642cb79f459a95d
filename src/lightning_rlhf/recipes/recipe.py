"""Read a recipe: its YAML, the defaults of all stages, and overrides."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from lightning_rlhf.text.display import named, quoted
from lightning_rlhf.text.documents import not_utf8, parsed
from lightning_rlhf.text.suggest import did_you_mean

LOAD = get_loader("yaml")  # of the command line's parser: 1e-3 is a number
TRAINED = ("fit", "validate", "test", "predict")  # verbs of a Trainer
SECTIONS = ("model", "data", "trainer")
LISTS: dict[str, type] = {"args": dict, "outputs": dict, "needs": list, "report": list}
KINDS: dict[str, type] = {
    **LISTS, **dict.fromkeys(SECTIONS, dict), "call": str, "about": str, "verb": str,
    "ckpt_path": str,
}  # fmt: skip
KEYS = ("name", "verb", *SECTIONS, "call", "ckpt_path", "seed", "about", *LISTS)
UNQUOTED = re.compile(r"folder|here|[A-Za-z]\w*\.\w+")  # "{seed}" was never one
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
    if not isinstance(written.get("stages"), list):
        raise ValueError(f"{file} is not a recipe: give a list under `stages:` (docs/recipes.md)")
    _known(written, TOP, str(file))
    defaults = written.get("defaults") or {}
    _known(defaults, SECTIONS, f"{file}, defaults")
    for name, section in defaults.items():
        if not isinstance(section, dict):
            raise ValueError(f"{file}, defaults: {name}: got {quoted(section)}: give a mapping")
    stages = [_stage(item, defaults, i, file) for i, item in enumerate(written["stages"], 1)]
    names = [stage.name for stage in stages]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file}: two stages are called {twice}: give one of them another name")
    return Recipe(
        file=file,
        folder=Path(_text(written, "folder", str(file)) or Path("runs") / file.stem),
        seed=whole_number(written.get("seed") or 0, f"{file}: seed"),
        title=_text(written, "title", str(file)) or file.stem,
        subtitle=_text(written, "subtitle", str(file)) or f"{len(stages)} stages of {file.name}",
        stages=stages,
    )


def _text(written: dict[str, Any], key: str, where: str) -> str:
    """Read a text of the recipe; "" where there is none."""
    value = written.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float) or "\x00" in str(value):
        raise ValueError(f"{where}: {key}: got {quoted(value)}: give a text")
    return str(value)


def whole_number(value: Any, where: str) -> int:
    """Read a seed.

    Raises:
        ValueError: it is not a whole number, or one of more than 63 bits.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -(2**63) < value < 2**63 or value != int(value):
        raise ValueError(f"{where}: got {quoted(value)}: give a whole number")
    return int(value)


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no recipe at {file}")
    try:
        written = parsed(file.read_text(encoding="utf-8"), file, _load_quoted)
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(file, file.read_bytes())) from error
    if not isinstance(written, dict):
        raise ValueError(f"{file} is not a recipe: give a list under `stages:` (docs/recipes.md)")
    return written


def _stage(item: Any, defaults: dict[str, Any], number: int, file: Path) -> Stage:
    if not isinstance(item, dict) or not isinstance(name := item.get("name"), str):
        raise ValueError(f"{file}: stage {number} has no name: give one, as `- name: sft`")
    where = f"{file}, stage {named(name)}"
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in ("folder", "here"):
        raise ValueError(
            f"{where}: the name is a folder too: use letters, digits and _, not `folder` or `here`"
        )
    _known(item, KEYS, where)
    for key, kind in KINDS.items():
        if not isinstance(item.get(key, kind()), kind):
            raise ValueError(f"{where}: {key}: give a {kind.__name__}, not {quoted(item[key])}")
    for key in ("outputs", "needs", "report"):
        values = item.get(key, [])
        parts = [*values, *values.values()] if isinstance(values, dict) else values
        if wrong := [part for part in parts if not isinstance(part, str) or "\x00" in part]:
            raise ValueError(f"{where}: {key}: {quoted(wrong[0])} is not a text: put it in quotes")
    verb = item.get("verb") or ("call" if "call" in item else "fit")
    if verb not in (*TRAINED, "call"):
        near = did_you_mean(verb, (*TRAINED, "call"))
        raise ValueError(f"{where}: there is no verb {named(verb)}: {near}")
    lacks = [k for k in (("call",) if verb == "call" else ("model", "data")) if k not in item]
    if lacks:
        raise ValueError(f"{where}: {verb} needs `{lacks[0]}:`")
    foreign = (*SECTIONS, "ckpt_path") if verb == "call" else ("call", "args")
    if foreign_key := next((k for k in foreign if k in item), None):
        raise ValueError(f"{where}: {verb} does not take `{foreign_key}:`; take it out")
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
        raise ValueError(
            f"--set {named(override)}: write NAME=VALUE, as stages.sft.trainer.max_steps=5"
        )
    *parents, last = path.split(".")
    node: Any = written
    for key in parents:
        if isinstance(node, list):
            node = _stage_of(node, key, override)
        else:
            node = _inside(node, key).setdefault(key, {})
        if not isinstance(node, dict | list):
            raise ValueError(
                f"--set {named(override)}: {named(key)} is {quoted(node)} and cannot hold "
                f"{named(last)}"
            )
    if isinstance(node, list):
        raise ValueError(
            f"--set {named(override)}: set one key of a stage, as {named(path)}.trainer.max_steps"
        )
    _inside(node, last)[last] = parsed(value, f"--set {named(path)}", _load_quoted)


def _inside(node: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping that a key belongs to: the ``init_args`` if the section is a class."""
    takes = "class_path" in node and key not in ("class_path", "init_args")
    inner: dict[str, Any] = node.setdefault("init_args", {}) if takes else node
    return inner


def _stage_of(stages: list[Any], name: str, override: str) -> Any:
    names = [str(s.get("name")) for s in stages if isinstance(s, dict)]
    if name not in names:
        meant = did_you_mean(name, map(named, names))
        raise ValueError(f"--set {named(override)}: there is no stage {named(name)}: {meant}")
    return next(s for s in stages if isinstance(s, dict) and s.get("name") == name)


def _known(section: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    if not isinstance(section, dict):
        raise ValueError(f"{where}: got {quoted(section)}: give a mapping")
    if wrong := next((key for key in section if key not in keys), None):
        meant = did_you_mean(str(wrong), keys)
        raise ValueError(f"{where}: there is no key {named(wrong)}: {meant}")


def _load_quoted(text: str) -> Any:
    """Load YAML whose references need no quotes: ``{sft.policy}`` alone would be a mapping."""
    for start, end in sorted(_references(yaml.compose(text, yaml.SafeLoader)), reverse=True):
        text = f'{text[:start]}"{text[start:end]}"{text[end:]}'
    return LOAD(text)


def _references(node: Any) -> Iterator[tuple[int, int]]:
    """Find where mappings of one key without a value stand, ``{folder}``."""
    todo, seen = [node], {id(None)}
    while todo:
        node = todo.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        pairs = isinstance(node, yaml.MappingNode)
        todo += [part for pair in node.value for part in pair] if pairs else node.value
        if not pairs or not node.flow_style or len(node.value) != 1:
            continue
        key, value = node.value[0]
        bare = isinstance(value, yaml.ScalarNode) and value.style is None and not value.value
        if bare and isinstance(key, yaml.ScalarNode) and UNQUOTED.fullmatch(key.value):
            yield node.start_mark.index, node.end_mark.index
