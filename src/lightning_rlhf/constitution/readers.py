"""Constitutions as people store them, told apart by their shape, each read into ours."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.text.documents import known, read_file, text_of

SHAPES = (
    "ours {name, version, principles: [...]}",
    'the published form {"<id>": {"prompt": [...], "edit_request": "..."}}',
    'the {critic, revision} form {"constitutions": [...]}',
    "a list of strings",
)
UNVERSIONED = "unversioned"
FIELDS = tuple(field.name for field in fields(Principle))
HEADINGS = re.compile(r"^\s*(?:Critique|Revision) ?Request:|(?:Critique|Revision):\s*$")


def read_constitution(path: Path) -> Constitution:
    """A constitution from a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: its shape is none of ``SHAPES``, or a field is wrong.
    """
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
    raise ValueError(f"{path} is no constitution: it {_shape(value)}, and {_choices()}")


def _choices() -> str:
    return f"known shapes are {'; '.join(SHAPES)}"


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys)


def _shape(value: Any) -> str:
    """What a value looks like, for a message."""
    if isinstance(value, dict):
        return f"has the keys {{{', '.join(map(str, list(value)[:6]))}}}"
    if isinstance(value, list):
        kinds = sorted({type(v).__name__ for v in value})
        return f"is a list of {' and '.join(kinds)}" if value else "is an empty list"
    return "is empty" if value is None else f"holds one {type(value).__name__}"


def _ours(value: dict[str, Any], path: Path) -> Constitution:
    known(value, ("name", "version", "principles"), str(path))
    for field in ("name", "version"):
        if value.get(field) in (None, ""):
            raise ValueError(f"{path} has no {field}: rows are stamped with it, so give one")
    if not isinstance(value["principles"], list):
        raise ValueError(f"{path}: principles is no list; write each as '- id: ...'")
    made = tuple(
        _principle(p, f"{path} principle {i}") for i, p in enumerate(value["principles"], 1)
    )
    return Constitution(str(value["name"]), str(value["version"]), made)


def _principle(value: Any, where: str) -> Principle:
    if not _has(value, "id"):
        raise ValueError(f"{where} has no id: write it as '- id: ...'")
    where = f"{where} ({value['id']})"
    known(value, FIELDS, where)
    texts = ("critique", "revision", "comparison", "source")
    said = {t: text_of(value[t], f"{where}: {t}") for t in texts if value.get(t) is not None}
    tags, weight = value.get("tags") or [], value.get("weight", 1)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"{where}: tags is no list of words; write it as [honest, kind]")
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise ValueError(f"{where}: weight {weight!r} is no number")
    return Principle(str(value["id"]), tags=tuple(tags), weight=float(weight), **said)


def _published(value: dict[str, Any], path: Path) -> Constitution:
    """Bai et al. (2022): ``{"prompt": [critique requests], "edit_request": revision request}``."""
    made = []
    for name, entry in value.items():
        where = f"{path} principle {name}"
        known(entry, ("prompt", "edit_request"), where)
        asked = entry["prompt"] if isinstance(entry["prompt"], list) else [entry["prompt"]]
        if not asked:
            raise ValueError(f"{where}: prompt is an empty list; give it a critique request")
        revision = _plain(text_of(entry.get("edit_request"), f"{where}: edit_request"))
        for i, request in enumerate(asked):
            critique = _plain(text_of(request, f"{where}: prompt"))
            id = f"{name}-{i + 1}" if i else name
            made.append(Principle(id, critique, revision, weight=1 / len(asked), source=path.name))
    return Constitution(path.stem, UNVERSIONED, tuple(made))


def _plain(request: str) -> str:
    """A request without the headings of a transcript around it."""
    return HEADINGS.sub("", request).strip()


def _critic_revision(entries: list[Any], path: Path) -> Constitution:
    made = []
    for i, entry in enumerate(entries, 1):
        where = f"{path} entry {i}"
        if not _has(entry, "critic", "revision"):
            raise ValueError(f"{where} {_shape(entry)}: it needs critic and revision")
        critique, revision = (text_of(entry[k], f"{where}: {k}") for k in ("critic", "revision"))
        made.append(Principle(f"{path.stem}-{i:02d}", critique, revision, source=path.name))
    return Constitution(path.stem, UNVERSIONED, tuple(made))


def _sentences(sentences: list[str], path: Path) -> Constitution:
    made = tuple(
        around(f"{path.stem}-{i:02d}", sentence.strip(), path.name)
        for i, sentence in enumerate(sentences, 1)
    )
    return Constitution(path.stem, UNVERSIONED, made)


def around(id: str, sentence: str, source: str = "") -> Principle:
    """A principle whose three requests are built around one sentence."""
    if not sentence:
        raise ValueError(f"principle {id!r} is an empty string: write what is asked of an answer")
    return Principle(
        id,
        f"Hold your last answer against this principle: {sentence} "
        "Say where it falls short, or that it does not.",
        f"Write the answer again so that it keeps to this principle: {sentence} "
        "If nothing fell short, repeat it unchanged.",
        f"Which answer keeps better to this principle? {sentence}",
        source=source,
    )
