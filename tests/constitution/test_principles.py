"""The built-in constitution, and draws by weight."""

from __future__ import annotations

from collections import Counter

from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.readers import load


def test_each_built_in_principle_has_all_three_texts() -> None:
    constitution = load()
    assert len(constitution.principles) == 16
    for principle in constitution.principles:
        assert principle.critique.endswith(".") or principle.critique.endswith("?")
        assert principle.revision.endswith(".") and principle.comparison.endswith("?")
        assert principle.tags and principle.source and principle.weight > 0
    ids = {p.id for p in constitution.principles}
    assert {"not-evasive", "not-preachy", "honest-doubt"} <= ids
    assert sum("behaviour" in p.tags for p in constitution.principles) >= 4


def test_draws_follow_the_weights() -> None:
    constitution = Constitution(
        "c",
        "1",
        (
            Principle("often", "c?", "r.", weight=3),
            Principle("seldom", "c?", "r."),
            Principle("never", "c?", "r.", weight=0),
            Principle("other", comparison="which?"),
        ),
    )
    drawn = Counter(constitution.draw("critique", i).id for i in range(4000))
    assert set(drawn) == {"often", "seldom"}
    assert abs(drawn["often"] / 4000 - 0.75) < 0.03  # four standard errors
    assert constitution.draw("comparison", 5).id == "other"
    assert constitution.draw("critique", 7) == constitution.draw("critique", 7)
