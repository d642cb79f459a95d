"""Expected ratings of single answers, computed by hand."""

from __future__ import annotations

import math

import pytest

from lightning_rlhf.constitution.rating import expected, rate
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.text.messages import Message


def test_ratings_are_expected_values_between_minus_one_and_one() -> None:
    def score(messages: list[Message], option: str) -> float:
        assert option.endswith(".")  # "1." does not begin "10."
        probabilities = {"bad": {"1.": 1.0}, "good": {"10.": 1.0}, "fair": {"1.": 0.25, "7.": 0.75}}
        text = messages[-1]["content"]
        p = next(v for k, v in probabilities.items() if f"Answer: {k}" in text).get(option, 0.0)
        return math.log(p) - 5 if p else -math.inf

    judge = ScriptedGenerator(lambda m, s: "", score)
    ratings = rate(judge, ["q", "q", "q"], ["bad", "good", "fair"])
    assert ratings == pytest.approx([-1, 1, 0])  # 0.25 * 1 + 0.75 * 7 = 5.5, the middle
    assert expected([0.0] * 10) == pytest.approx(5.5)
    with pytest.raises(ValueError, match="none of the ratings 1 to 10 a probability"):
        expected([-math.inf] * 10)
    with pytest.raises(ValueError, match="the template uses 'answr'"):
        rate(judge, ["q"], ["bad"], template="{answr}")
