"""A constitution: named, versioned principles, one drawn at a time by a seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml

from lightning_rlhf.constitution.seeds import digest, weighted

DEFAULT = Path(__file__).with_name("default.yaml")
Kind = Literal["critique", "revision", "comparison"]
NEEDS: dict[str, tuple[str, ...]] = {  # the texts a principle must have for each kind of draw
    "critique": ("critique", "revision"),
    "revision": ("revision",),
    "comparison": ("comparison",),
}


@dataclass(frozen=True)
class Principle:
    """One thing asked of an answer, as the three requests made of a model."""

    id: str
    critique: str = ""  # asks what is wrong with the last answer
    revision: str = ""  # asks for a better one
    comparison: str = ""  # asks which of two answers is better
    tags: tuple[str, ...] = ()
    weight: float = 1.0  # how often it is drawn, against the others
    source: str = ""  # where it is from

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"principle {self.id!r}: weight {self.weight} must be 0 or more")
        if not (self.revision or self.comparison):
            raise ValueError(
                f"principle {self.id!r} asks for nothing: give critique and revision, or comparison"
            )
        if self.critique and not self.revision:
            raise ValueError(f"principle {self.id!r} has a critique but no revision: give both")


@dataclass(frozen=True)
class Constitution:
    """Principles under a name and a version; the hash tells any two apart."""

    name: str
    version: str
    principles: tuple[Principle, ...]

    def __post_init__(self) -> None:
        ids = [p.id for p in self.principles]
        if not ids:
            raise ValueError(f"constitution {self.name!r} has no principles: give at least one")
        twice = next((i for i in ids if ids.count(i) > 1), None)
        if twice is not None:
            raise ValueError(f"constitution {self.name!r} has two principles {twice!r}: rename one")

    @cached_property
    def sha256(self) -> str:
        """Over the canonical JSON of name, version and all principles."""
        return digest(asdict(self))

    @property
    def stamp(self) -> dict[str, str]:
        """What a row carries of it: name, version, sha256."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    def __getitem__(self, name: str) -> Principle:
        for principle in self.principles:
            if principle.id == name:
                return principle
        raise KeyError(f"constitution {self.name!r} has no principle {name!r}")

    def to_yaml(self) -> str:
        """As ``load`` reads it, to the same hash."""
        rows = [{**asdict(p), "tags": list(p.tags)} for p in self.principles]
        value = {"name": self.name, "version": self.version, "principles": rows}
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)

    def draw(self, kind: Kind, *parts: object) -> Principle:
        """One of the principles that have the texts of a kind, by weight, from the seed's parts.

        Args:
            kind: "critique" (with its revision), "revision" alone, or "comparison".
            parts: whatever tells this draw from others: run seed, row id, stage, round.
        """
        able = [p for p in self.principles if all(getattr(p, text) for text in NEEDS[kind])]
        weights = [p.weight for p in able]
        if not sum(weights):
            raise ValueError(
                f"constitution {self.name!r} has no principle with a {kind} text and a weight: "
                f"add {' and '.join(NEEDS[kind])} to one"
            )
        return able[weighted(weights, "principle", kind, *parts)]


def load(path: str | Path | None = None) -> Constitution:
    """A constitution from a file of any known shape (see ``readers``), or the built-in one."""
    from lightning_rlhf.constitution.readers import read_constitution

    return read_constitution(Path(path) if path is not None else DEFAULT)


class Governed:
    """Whoever works by a constitution, whose file an earlier stage may have to write first.

    Args:
        given: a constitution, its file, or None for the built-in one.
        kind: of the texts that are drawn.
    """

    def __init__(self, given: Constitution | str | None, kind: Kind):
        self._given = given
        self._kind = kind
        if not isinstance(given, str) or Path(given).exists():
            assert self.constitution  # refused here, before any call

    @cached_property
    def constitution(self) -> Constitution:
        """Read when it is first asked for.

        Raises:
            ValueError: it has no principle to draw.
        """
        found = self._given if isinstance(self._given, Constitution) else load(self._given)
        found.draw(self._kind, "check")
        return found
