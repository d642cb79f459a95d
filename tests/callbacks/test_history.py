"""Figures of stretches of a run, by hand."""

from __future__ import annotations

import math

import pytest

from lightning_rlhf.callbacks.history import (
    Stretch,
    ends,
    mean_of_last,
    noise,
    rose,
    series,
    stretch,
)

NAN = math.nan
ROWS = [{"kl": 1.0}, {"kl": NAN}, {"kl": 2.0}, {}, {"kl": 4.0}, {"kl": math.inf}, {"kl": 6.0}]


def test_a_series_is_the_finite_values_in_order() -> None:
    assert series(ROWS, "kl") == [1, 2, 4, 6]
    assert series(ROWS, "scores") == []


def test_a_stretch_has_the_standard_error_of_its_mean() -> None:
    mean, error = stretch([1.0, 2.0, 3.0, 6.0])
    assert mean == 3 and error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_both_ends_wait_until_they_do_not_overlap() -> None:
    assert ends(ROWS, "kl", 3) is None
    assert ends(ROWS, "kl", 2) == (stretch([1.0, 2.0]), stretch([4.0, 6.0]))


def test_a_rise_is_more_than_five_standard_errors() -> None:
    before = Stretch(0.0, 3.0)
    assert not rose(before, Stretch(25.0, 4.0))  # 5 errors of 5
    assert rose(before, Stretch(25.1, 4.0))
    assert not rose(before, Stretch(-100.0, 4.0))


def test_noise_ignores_a_trend_and_one_jump() -> None:
    draws = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    expected = 1 / (0.6745 * math.sqrt(2))
    assert noise(draws) == pytest.approx(expected)
    jumped = [*draws, *(100 + x for x in draws)]
    assert noise(jumped) == pytest.approx(expected)


def test_the_mean_of_the_last_values_is_unknown_while_they_are_few() -> None:
    assert mean_of_last(ROWS, "kl", 2) == 5
    assert math.isnan(mean_of_last(ROWS, "kl", 5))
