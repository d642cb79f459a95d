"""A constitution: named, versioned principles, one drawn at a time by a seed."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from functools import cached_property
from typing import Literal

import yaml

from lightning_rlhf.constitution.seeds import digest, weighted
from lightning_rlhf.text.display import quoted

Kind = Literal["critique", "revision", "comparison"]
NEEDS: dict[str, tuple[str, ...]] = {  # the texts a principle must have for each kind of draw
    "critique": ("critique", "revision"),
    "revision": ("revision",),
    "comparison": ("comparison",),
}


@dataclass(frozen=True)
class Principle:
    """One rule about answers, worded as three requests to a model."""

    id: str
    critique: str = ""  # asks what is wrong with the last answer
    revision: str = ""  # asks for a better one
    _: KW_ONLY
    comparison: str = ""  # asks which of two answers is better
    tags: tuple[str, ...] = ()
    weight: float = 1.0  # how often it is drawn, relative to the others
    source: str = ""  # its origin

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"principle {quoted(self.id)}: weight {self.weight} must be 0 or more")
        if not (self.revision or self.comparison):
            raise ValueError(
                f"principle {quoted(self.id)} asks for nothing: give critique and revision, or "
                "comparison"
            )
        if self.critique and not self.revision:
            raise ValueError(
                f"principle {quoted(self.id)} has a critique but no revision: give both"
            )


@dataclass(frozen=True)
class Constitution:
    """Principles with a name, a version and a hash of all of it."""

    name: str
    version: str
    principles: tuple[Principle, ...]

    def __post_init__(self) -> None:
        ids = [p.id for p in self.principles]
        if not ids:
            raise ValueError(
                f"constitution {quoted(self.name)} has no principles: give at least one"
            )
        twice = next((i for i in ids if ids.count(i) > 1), None)
        if twice is not None:
            raise ValueError(
                f"constitution {quoted(self.name)} has two principles {quoted(twice)}: rename one"
            )

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON of name, version and all principles."""
        return digest(asdict(self))

    @property
    def stamp(self) -> dict[str, str]:
        """Name, version and sha256, as stored in each row."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    def __getitem__(self, name: str) -> Principle:
        for principle in self.principles:
            if principle.id == name:
                return principle
        raise KeyError(f"constitution {quoted(self.name)} has no principle {quoted(name)}")

    def to_yaml(self) -> str:
        """YAML that ``load`` reads back to the same hash."""
        rows = [{**asdict(p), "tags": list(p.tags)} for p in self.principles]
        value = {"name": self.name, "version": self.version, "principles": rows}
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)

    def draw(self, kind: Kind, *parts: object) -> Principle:
        """Draw a principle in proportion to its weight, among those that have the texts of a kind.

        Args:
            kind: "critique" (with its revision), "revision" alone, or "comparison".
            parts: the seed: run seed, row id, round and whatever else makes this draw its own.

        Raises:
            ValueError: no principle has these texts and a weight above 0.
        """
        able = [p for p in self.principles if all(getattr(p, text) for text in NEEDS[kind])]
        weights = [p.weight for p in able]
        if not sum(weights):
            raise ValueError(
                f"constitution {quoted(self.name)} has no principle with a {kind} text and a "
                f"weight: add {' and '.join(NEEDS[kind])} to one"
            )
        return able[weighted(weights, "principle", kind, *parts)]
