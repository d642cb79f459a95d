"""The built-in worked examples."""

from __future__ import annotations

from lightning_rlhf.constitution.transcripts import load_comparisons, load_transcripts


def test_two_built_in_transcripts_change_nothing() -> None:
    transcripts = load_transcripts()
    assert len(transcripts) == 6
    assert sum(t.answer == t.revision for t in transcripts) == 2
    assert [m["role"] for m in transcripts[0].messages()] == ["user", "assistant"] * 3
    assert len(transcripts[0].messages(critique=False)) == 4
    comparisons = load_comparisons()
    assert sorted(c.better for c in comparisons) == ["first", "first", "second", "second"]
