"""Pairs of two rounds of a chain, and of two samples."""

from __future__ import annotations

import pytest

from lightning_rlhf.constitution.pairs import pairs, sampled_pairs
from lightning_rlhf.constitution.seeds import row_id, seed_of
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from support import RULES


def test_two_rounds_of_a_chain() -> None:
    chains = SelfCritique(RULES, rounds=3, transcripts=()).run(
        ScriptedGenerator(lambda m, s: str(s)), [{"id": "a", "prompt": "x"}]
    )
    (pair,) = pairs(chains, "revision_vs_draft")
    assert (pair["first"], pair["second"]) == (chains[0].answer(3), chains[0].draft.text)
    (pair,) = pairs(chains, ("rounds", 2, 1))
    assert (pair["first"], pair["second"]) == (chains[0].answer(2), chains[0].answer(1))
    with pytest.raises(ValueError, match="row a has no round 4: give 0 to 3"):
        pairs(chains, ("rounds", 4, 1))
    with pytest.raises(ValueError, match='kind must be "revision_vs_draft" or'):
        pairs(chains, ("best", 2, 1))


def test_sampled_pairs_are_two_seeds_of_one_prompt() -> None:
    model = ScriptedGenerator(lambda m, s: f"{m[-1]['content']} {s}")
    one, two = sampled_pairs(model, [{"id": "a", "prompt": "x"}, {"prompt": "y"}], seed=5)
    seeds = [seed_of(5, "a", "sampled", side) for side in (0, 1)]
    assert (one["first"], one["second"]) == (f"x {seeds[0]}", f"x {seeds[1]}")
    assert one["seeds"] == seeds and one["id"] == "a/s0-s1" and two["source_id"] == row_id("y")
    assert sampled_pairs(model, [{"prompt": "y"}], seed=5) == [two]
