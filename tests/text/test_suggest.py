"""The word that was probably meant."""

from __future__ import annotations

from lightning_rlhf.text.suggest import did_you_mean, nearest


def test_the_nearest_word_is_suggested() -> None:
    assert nearest("betta", ["alpha", "beta"]) == "beta" and nearest("x", ["alpha"]) is None
    assert did_you_mean("betta", ["alpha", "beta"]) == "did you mean beta?"
    assert did_you_mean("x", iter(["beta", "alpha"])) == "there is alpha, beta"
