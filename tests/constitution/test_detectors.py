"""Detectors of role confusion, refusals and loops on texts written by hand."""

from __future__ import annotations

import pytest

from lightning_rlhf.constitution.detectors import confuses_roles, is_refusal, loops


@pytest.mark.parametrize(
    ("text", "confused"),
    [
        ("Critique: it is rude.", True),
        ("**Revision:** Be kind.", True),
        ("Here's my rewritten version of it", True),
        ("In my previous answer I was rude.", True),
        ("Sure.\nHuman: and now?", True),
        ("Here is a list of three teas.", False),
        ("The revision of the law came in 1990.", False),
        ("An honest critique of the play is in the paper.", False),
    ],
)
def test_role_confusion(text: str, confused: bool) -> None:
    assert confuses_roles(text) is confused


def test_refusals_and_loops() -> None:
    assert is_refusal("I\u2019m unable to do that.") and is_refusal("As an AI, I have no body.")
    assert not is_refusal("As an airline pilot I fly.")
    assert not is_refusal("Pour it. " * 40 + "I cannot help beyond that.")  # declines a part only
    assert loops("no no no no no no no no no no no")
    assert not loops("no no no") and not loops(" ".join(f"w{i}" for i in range(80)))
