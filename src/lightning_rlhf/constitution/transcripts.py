"""Worked examples before a request: of critiques and revisions, and of comparisons.

Few-shot examples keep a model from writing a critique where a revision is due (arXiv 2212.08073,
section 3.1).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from lightning_rlhf.constitution.seeds import pick
from lightning_rlhf.text.display import quoted
from lightning_rlhf.text.documents import known, read_file, text_of
from lightning_rlhf.text.messages import Message

DEFAULT = Path(__file__).with_name("transcripts.yaml")
T = TypeVar("T")


@dataclass(frozen=True)
class Transcript:
    """Example of one critique and revision."""

    id: str
    prompt: str
    answer: str
    _: KW_ONLY
    critique_request: str
    critique: str
    revision_request: str
    revision: str

    def messages(self, critique: bool = True) -> list[Message]:
        """Build its turns; without the critique the answer is revised directly."""
        middle = [("user", self.critique_request), ("assistant", self.critique)] if critique else []
        return turns(
            ("user", self.prompt), ("assistant", self.answer), *middle,
            ("user", self.revision_request), ("assistant", self.revision),
        )  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Example of two answers, of which one is better, with the reasons."""

    id: str
    prompt: str
    question: str
    _: KW_ONLY
    first: str
    second: str
    reasoning: str
    better: str  # "first" or "second"

    def __post_init__(self) -> None:
        if self.better not in ("first", "second"):
            raise ValueError(
                f'comparison {quoted(self.id)}: better must be "first" or "second", got '
                f"{quoted(self.better)}"
            )


def turns(*pairs: tuple[str, str]) -> list[Message]:
    """Build messages from pairs of role and content."""
    return [{"role": role, "content": content} for role, content in pairs]


def load_transcripts(path: str | Path | None = None) -> tuple[Transcript, ...]:
    """Read our YAML or the ``system_chat`` of a {critic, revision} file; else the built-in ones."""
    file = DEFAULT if path is None else Path(path)
    value = read_file(file)
    if isinstance(value, dict) and isinstance(value.get("system_chat"), list):
        chats = enumerate(value["system_chat"], 1)
        return tuple(_chat(chat, f"{file.stem}-{i}", f"{file} chat {i}") for i, chat in chats)
    return tuple(_read(Transcript, e, w) for e, w in _entries(value, "critiques", file))


def load_comparisons(path: str | Path | None = None) -> tuple[Comparison, ...]:
    """Read our YAML, or the built-in comparisons where no path is given."""
    file = DEFAULT if path is None else Path(path)
    return tuple(_read(Comparison, e, w) for e, w in _entries(read_file(file), "comparisons", file))


def some(examples: tuple[T, ...], shots: int | None, *parts: object) -> tuple[T, ...]:
    """Select examples: all in their order, or ``shots`` of them drawn by the seed's parts."""
    if shots is None:
        return examples
    if not 0 <= shots <= len(examples):
        raise ValueError(
            f"shots is {shots}, and there are {len(examples)} transcripts: "
            f"give 0 to {len(examples)}"
        )
    return tuple(examples[i] for i in pick(shots, len(examples), "shots", *parts))


def _entries(value: Any, key: str, file: Path) -> list[tuple[Any, str]]:
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise ValueError(f"{file} has no list {key!r}: write its transcripts below '{key}:'")
    return [(entry, f"{file} {key} {i}") for i, entry in enumerate(value[key], 1)]


def _read(kind: type[T], entry: Any, where: str) -> T:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {type(entry).__name__}: write it as {', '.join(names)}")
    known(entry, names, where)
    absent = [name for name in names if name not in entry]
    if absent:
        raise ValueError(f"{where} lacks {', '.join(absent)}: add it")
    return kind(**{name: text_of(entry[name], f"{where}: {name}") for name in names})


def _chat(chat: Any, id: str, where: str) -> Transcript:
    if not isinstance(chat, list):
        raise ValueError(f"{where} is {type(chat).__name__}: write it as a list of six messages")
    roles = [m.get("role") if isinstance(m, dict) else None for m in chat]
    if roles != ["user", "assistant"] * 3:
        raise ValueError(
            f"{where} has the roles {quoted(roles, 200)}: write question, answer, critique "
            "request, critique, revision request, revision"
        )
    names = [field.name for field in fields(Transcript)][1:]
    texts = [text_of(m.get("content"), where) for m in chat]
    return Transcript(id, **dict(zip(names, texts, strict=True)))
