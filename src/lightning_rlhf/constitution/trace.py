"""The history of one row: each request, each answer, and the principle behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_rlhf.constitution.question import transcript
from lightning_rlhf.text.jsonl import read_intact_rows


def find(paths: Iterable[str | Path], id: str) -> list[dict[str, Any]]:
    """Find the rows of an id in JSONL files or folders of them, and the chain they came from.

    For a row "x/r2" the chain "x" comes with it. Each row gets a ``"file"``.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no row has the id.
    """
    files = [file for path in paths for file in _files(Path(path))]
    rows = [{**row, "file": str(file)} for file in files for row in read_intact_rows(file)]
    matches = [row for row in rows if row.get("id") == id]
    if not matches:
        searched = ", ".join(map(str, files)) or "no file"
        raise ValueError(f"no row {id!r} in {searched}: give the id of a row in these files")
    origins = {_source(row) for row in matches} - {None, id}
    return matches + [row for row in rows if row.get("id") in origins and "rounds" in row]


def story(row: dict[str, Any]) -> str:
    """Tell the history of a chain, a label or a demonstration as text."""
    if "rounds" in row and "draft" in row:
        return "\n\n".join(_chain(row))
    if "orders" in row:
        return "\n\n".join(_label(row))
    if "completion" in row:
        return "\n\n".join(_demonstration(row))
    raise ValueError(
        f"row {row.get('id', '?')} is not a chain, label or demonstration: give the id of one"
    )


def _source(row: dict[str, Any]) -> Any:
    return row.get("source_id") or (row.get("extra") or {}).get("source_id")


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.jsonl"))
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder at {path}")
    return [path]


def _head(kind: str, row: dict[str, Any]) -> str:
    return f"{kind} {row.get('id', '?')}" + (f" in {row['file']}" if "file" in row else "")


def _titled(title: str, text: str) -> str:
    return f"{title}\n    " + (text or "(nothing)").replace("\n", "\n    ")


def _stamp(role: str, identity: dict[str, str], row: dict[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in identity.items())
    stamp = row["constitution"]
    constitution = f"constitution {stamp['name']} {stamp['version']} ({stamp['sha256'][:12]})"
    return f"{role}: {settings}\n{constitution}, seed {row['seed']}"


def _cut(finished: bool) -> str:
    return "" if finished else ", cut off by its length"


def _chain(row: dict[str, Any]) -> Iterator[str]:
    yield _head("chain", row)
    yield _stamp("generator", row["generator"], row)
    if row.get("shots"):
        yield f"each request follows {len(row['shots'])} turns of worked examples"
    yield _titled("prompt", transcript(row["prompt"]))
    draft = row["draft"]
    yield _titled(f"draft (seed {draft['seed']}{_cut(draft['finished'])})", draft["text"])
    for number, round in enumerate(row["rounds"], 1):
        yield f"round {number}: principle {round['principle']}"
        if round["critique_request"]:
            yield _titled("critique request", round["critique_request"])
            cut = _cut(round["critique_finished"])
            yield _titled(f"critique (seed {round['critique_seed']}{cut})", round["critique"])
        yield _titled("revision request", round["revision_request"])
        cut = _cut(round["finished"])
        yield _titled(f"revision (seed {round['seed']}{cut})", round["revision"])
    if "gates" in row:
        yield f"gates passed: {', '.join(row['gates']) or 'none'}"


def _label(row: dict[str, Any]) -> Iterator[str]:
    yield _head("label", row)
    yield _stamp("judge", row["judge"], row)
    yield _titled("prompt", transcript(row["prompt"]))
    yield _titled("chosen", row["chosen"])
    yield _titled("rejected", row["rejected"])
    yield f"principle {row['principle']}"
    for order in row["orders"]:
        first = "chosen" if row["first_is_chosen"] != order["swapped"] else "rejected"
        if order["reasoning"]:
            yield _titled(f"reasoning, {first} answer shown first", order["reasoning"])
        logprobs = ", ".join("absent" if x is None else f"{x:.4f}" for x in order["logprobs"])
        yield f"{first} answer shown first: log-probs of the labels {logprobs}"
    yield _verdict(row)


def _verdict(row: dict[str, Any]) -> str:
    raw = row["raw"]
    if raw is None:
        return f"{row['status']}: no label had a probability, so P(chosen is better) is 0.5"
    lean = raw if row["first_is_chosen"] else 1 - raw
    clamped = ", clamped" if row["clamped"] else ""
    return (
        f"{row['status']}: P(chosen is better) is {row['label']:.4f}"
        f" (mean of the orders {lean:.4f}{clamped})"
    )


def _demonstration(row: dict[str, Any]) -> Iterator[str]:
    yield _head("demonstration", row)
    if row.get("source_id") is not None:
        origin = f"round {row.get('round')} of chain {row['source_id']}"
        yield f"{origin}, principle {row.get('principle')}"
    yield _titled("prompt", transcript(row["prompt"]))
    yield _titled("completion", row["completion"])
    if "gates" in row:
        yield f"gates passed: {', '.join(row['gates']) or 'none'}"
