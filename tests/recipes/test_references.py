"""References of a recipe: where they are found, and what replaces them."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_rlhf.recipes.references import references_in, resolve, strings

OUTPUTS = {"rows": {"pairs": "run/rows/pairs.jsonl"}, "sft": {"policy": "run/sft/policy"}}
PLACES = {"folder": "run", "here": "recipes", "seed": "7"}


def resolved(value: Any, later: list[str] | None = None) -> Any:
    return resolve(value, OUTPUTS, PLACES, later or ["dpo"])


def test_strings_are_found_at_any_depth_and_as_keys() -> None:
    value = {"a": ["b", {"c": 1}], "{rows.pairs}": 0.5, "n": None}
    assert strings(value) == ["a", "b", "c", "{rows.pairs}", "n"]


def test_a_stage_takes_each_output_once() -> None:
    value = {"a": "{sft.policy}", "b": ["{rows.pairs}", "{sft.policy}/x"], "c": "{folder}/{here}"}
    assert references_in(value) == [("sft", "policy"), ("rows", "pairs")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{sft.policy}", "run/sft/policy"),
        ("{sft.policy}/adapter", "run/sft/policy/adapter"),
        ("{folder}/x of {here}", "run/x of recipes"),
        ("{seed}", 7),  # a number stays one
        ("seed{seed}", "seed7"),
        ("{{sft.policy}}", "{{sft.policy}}"),  # quoted: not a reference
        ("{prompt}", "{prompt}"),  # a field of a template
        (0.5, 0.5),
        (["{seed}", None], [7, None]),
        ({"{rows.pairs}": {"weight": 2}}, {"run/rows/pairs.jsonl": {"weight": 2}}),
    ],
)
def test_references_are_replaced(value: Any, expected: Any) -> None:
    assert resolved(value) == expected


def test_a_reference_to_a_later_stage_is_named() -> None:
    with pytest.raises(ValueError, match=r"\{ppo\.policy\}"):
        resolved("{ppo.policy}", later=["dpo", "ppo"])


def test_a_misspelled_reference_names_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"\{sft\.polcy\}.*sft\.policy"):
        resolved({"backbone": ["{sft.polcy}"]})
