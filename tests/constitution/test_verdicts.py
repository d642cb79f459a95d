"""The arithmetic of labels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.constitution.verdicts import normalized


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_normalizing_is_a_softmax(a: float, b: float) -> None:
    p = normalized((a, b))
    assert p == pytest.approx(math.exp(a) / (math.exp(a) + math.exp(b)))
    assert p + normalized((b, a)) == pytest.approx(1)
