"""References between stages: ``{sft.policy}`` in a string is the path of an output of stage sft."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning_rlhf.text.suggest import did_you_mean

REFERENCE = re.compile(r"(?<!\{)\{(?:(folder|here|seed)|([A-Za-z]\w*)\.(\w+))\}(?!\})")
Outputs = Mapping[str, Mapping[str, str]]  # stage -> name -> path, of all earlier stages


def references_in(value: Any) -> list[tuple[str, str]]:
    """Return the outputs that a value refers to, as (stage, output), each once, in order."""
    matches = [match for text in strings(value) for match in REFERENCE.finditer(text)]
    return list(dict.fromkeys((match[2], match[3]) for match in matches if match[2]))


def strings(value: Any) -> list[str]:
    """Return every string in a nested value, keys too: the sources of a mixture are keys."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    return [text for part in value for text in strings(part)] if isinstance(value, list) else []


def resolve(value: Any, outputs: Outputs, places: Mapping[str, str], later: list[str]) -> Any:
    """Replace every reference in a value.

    Args:
        value: of any nesting.
        outputs: of the stages before.
        places: the values of ``{folder}``, ``{here}`` and ``{seed}``.
        later: this stage and those after it, for messages.

    Raises:
        ValueError: there is no such stage or output; suggests one.
    """
    if isinstance(value, list):
        return [resolve(v, outputs, places, later) for v in value]
    if isinstance(value, dict):
        parts = ((k, resolve(v, outputs, places, later)) for k, v in value.items())
        return {resolve(k, outputs, places, later): v for k, v in parts}
    if not isinstance(value, str):
        return value
    if value == "{seed}":
        return int(places["seed"])  # a number stays one
    return REFERENCE.sub(lambda match: _path(match, outputs, places, later), value)


def _path(
    match: re.Match[str], outputs: Outputs, places: Mapping[str, str], later: list[str]
) -> str:
    place, stage, output = match.groups()
    if place:
        return places[place]
    there = [f"{s}.{o}" for s, made in outputs.items() for o in made]
    if stage in later:
        raise ValueError(f"{match[0]} is not there yet: refer to a stage before this one")
    if output not in outputs.get(stage, {}):
        wanted = f"{stage}.{output}"
        meant = did_you_mean(wanted, there) if there else "no stage before it has outputs"
        raise ValueError(f"nothing is called {match[0]}: {meant}")
    return outputs[stage][output]
