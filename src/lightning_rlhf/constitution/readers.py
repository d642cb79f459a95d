"""Read constitutions from files: our own shape and the published ones."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_rlhf.constitution.principles import Constitution, Kind, Principle
from lightning_rlhf.text.display import named, quoted
from lightning_rlhf.text.documents import known, read_file, text_of

DEFAULT = Path(__file__).with_name("default.yaml")
SHAPES = (
    "ours {name, version, principles: [...]}",
    'the published form {"<id>": {"prompt": [...], "edit_request": "..."}}',
    'the {critic, revision} form {"constitutions": [...]}',
    "a list of strings",
)
UNVERSIONED = "unversioned"
FIELDS = tuple(field.name for field in fields(Principle))
HEADINGS = re.compile(r"^\s*(?:Critique|Revision) ?Request:|(?:Critique|Revision):\s*$")


def load(path: str | Path | None = None) -> Constitution:
    """Read a constitution, or the built-in one where no path is given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has none of the ``SHAPES``, or a field is wrong.
    """
    return _read(Path(path) if path is not None else DEFAULT)


class LazyConstitution:
    """A constitution that is read on first use, because an earlier stage may write its file.

    A file that exists is read at once: its mistakes are reported before anything is loaded.

    Args:
        given: a constitution, its file, or None for the built-in one.
        kind: the texts that will be drawn.
    """

    def __init__(self, given: Constitution | str | None, kind: Kind):
        self._given = given
        self._kind = kind
        if not isinstance(given, str) or Path(given).exists():
            assert self.value

    @cached_property
    def value(self) -> Constitution:
        """The constitution.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is wrong, or none of its principles can be drawn.
        """
        given = self._given
        constitution = given if isinstance(given, Constitution) else load(given)
        constitution.draw(self._kind, "check")
        return constitution


def _read(path: Path) -> Constitution:
    value = read_file(path)
    if isinstance(value, dict) and "principles" in value:
        return _ours(value, path)
    if isinstance(value, dict) and isinstance(value.get("constitutions"), list):
        return _critic_revision(value["constitutions"], path)
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return _sentences(value, path)
    if isinstance(value, list) and value and all(_has(v, "critic", "revision") for v in value):
        return _critic_revision(value, path)
    if isinstance(value, dict) and value and all(_has(v, "prompt") for v in value.values()):
        return _published(value, path)
    shapes = "; ".join(SHAPES)
    raise ValueError(f"{path} is not a constitution: it {_shape(value)}; use one of: {shapes}")


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys)


def _shape(value: Any) -> str:
    """Describe a value's shape, for an error."""
    if isinstance(value, dict):
        return f"has the keys {{{', '.join(named(key) for key in list(value)[:6])}}}"
    if isinstance(value, list):
        kinds = sorted({type(v).__name__ for v in value})
        return f"is a list of {' and '.join(kinds)}" if value else "is an empty list"
    return "is empty" if value is None else f"holds one {type(value).__name__}"


def _ours(value: dict[str, Any], path: Path) -> Constitution:
    known(value, ("name", "version", "principles"), str(path))
    for field in ("name", "version"):
        if value.get(field) in (None, ""):
            raise ValueError(f"{path} has no {field}, which each row stores: give one")
        value[field] = _word(value[field], f"{path}: {field}")
    if not isinstance(value["principles"], list):
        raise ValueError(f"{path}: principles is not a list: write each as '- id: ...'")
    principles = tuple(
        _principle(p, f"{path} principle {i}") for i, p in enumerate(value["principles"], 1)
    )
    return Constitution(value["name"], value["version"], principles)


def _principle(value: Any, where: str) -> Principle:
    if not _has(value, "id"):
        raise ValueError(f"{where} has no id: write it as '- id: ...'")
    id = _word(value["id"], f"{where}: id")
    where = f"{where} ({named(id)})"
    known(value, FIELDS, where)
    names = ("critique", "revision", "comparison", "source")
    texts = {t: text_of(value[t], f"{where}: {t}") for t in names if value.get(t) is not None}
    tags, weight = value.get("tags") or [], value.get("weight", 1)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"{where}: tags is not a list of words: write it as [honest, kind]")
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not -sys.float_info.max <= weight <= sys.float_info.max:
        raise ValueError(f"{where}: weight {quoted(weight)} is not a number: write it as 1.5")
    return Principle(id, tags=tuple(tags), weight=float(weight), **texts)


def _word(value: Any, where: str) -> str:
    """Read a name: text, or a number such as a version."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{where} is {type(value).__name__}, not a word: put it in quotes")
    return text_of(value if isinstance(value, str) else quoted(value), where)


def _published(value: dict[str, Any], path: Path) -> Constitution:
    """Bai et al. (2022): ``{"prompt": [critique requests], "edit_request": revision request}``."""
    principles = []
    for name, entry in value.items():
        where = f"{path} principle {named(name)}"
        known(entry, ("prompt", "edit_request"), where)
        requests = entry["prompt"] if isinstance(entry["prompt"], list) else [entry["prompt"]]
        if not requests:
            raise ValueError(f"{where}: prompt is an empty list: give it a critique request")
        revision = _plain(text_of(entry.get("edit_request"), f"{where}: edit_request"))
        for i, request in enumerate(requests):
            critique = _plain(text_of(request, f"{where}: prompt"))
            id, weight = f"{name}-{i + 1}" if i else str(name), 1 / len(requests)
            principles.append(Principle(id, critique, revision, weight=weight, source=path.name))
    return Constitution(path.stem, UNVERSIONED, tuple(principles))


def _plain(request: str) -> str:
    """Strip the headings of a transcript from a request."""
    return HEADINGS.sub("", request).strip()


def _critic_revision(entries: list[Any], path: Path) -> Constitution:
    principles = []
    for i, entry in enumerate(entries, 1):
        where = f"{path} entry {i}"
        if not _has(entry, "critic", "revision"):
            raise ValueError(f"{where} {_shape(entry)}: give it critic and revision")
        critique, revision = (text_of(entry[k], f"{where}: {k}") for k in ("critic", "revision"))
        principles.append(Principle(f"{path.stem}-{i:02d}", critique, revision, source=path.name))
    return Constitution(path.stem, UNVERSIONED, tuple(principles))


def _sentences(sentences: list[str], path: Path) -> Constitution:
    principles = tuple(
        _around(f"{path.stem}-{i:02d}", sentence.strip(), path.name)
        for i, sentence in enumerate(sentences, 1)
    )
    return Constitution(path.stem, UNVERSIONED, principles)


def _around(id: str, sentence: str, source: str) -> Principle:
    """Build the three requests around one sentence."""
    if not sentence:
        raise ValueError(f"principle {id!r} is an empty string: write what an answer should be")
    return Principle(
        id,
        f"Hold your last answer against this principle: {sentence} "
        "Say where it falls short, or that it does not.",
        f"Write the answer again so that it keeps to this principle: {sentence} "
        "If nothing fell short, repeat it unchanged.",
        comparison=f"Which answer keeps better to this principle? {sentence}",
        source=source,
    )
