"""Seeds, ids, digests and rows recorded before a refactoring: later code must make the same ones.

Journals and rows on disk hold them. With other values a resumed run would repeat every request.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.demonstrations import demonstrations
from lightning_rlhf.constitution.gates import check
from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.constitution.pairs import pairs, sampled_pairs
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.seeds import pick, row_id, seed_of, share_of, weighted
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.generators.journal import Journaled
from lightning_rlhf.text.messages import Message

CONVERSATION = [{"role": "system", "content": "S"}, {"role": "user", "content": "ünï?"}]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "How?"},
    {"prompt": CONVERSATION},
    {"prompt": "q"},
]
LABELS = {  # by chain of thought and swap
    (False, True): "0bca013c64867395",
    (False, False): "43506c2b82f5af22",
    (True, True): "f24bca89abcffa8e",
    (True, False): "b4ac854841d109a5",
}
JOURNAL = (
    '{"key": "9963da4d3f880aa69c0cc15d5064590a76dcba0bea90b7b7c48f8e56843e6c5e", "text": "é 7397", '
    '"finished": true}\n'
    '{"key": "8802bce4d33cc16a281f0c1eb5b628c5e950e876bf79967381582bfba7b4c0a1", '
    '"logprobs": [-2.4233333333333333, -1.9833333333333334]}\n'
)


def rounded(value: Any) -> Any:
    """Round floats in nested values to nine places: ``exp`` differs between platforms."""
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def digest(value: Any) -> str:
    text = json.dumps(rounded(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model() -> ScriptedGenerator:
    def answer(messages: list[Message], seed: int) -> Completion:
        return Completion(f"é {seed_of(messages, seed) % 9973}", seed % 3 > 0)

    def score(messages: list[Message], option: str) -> float:
        drawn = seed_of(messages, option)
        return -math.inf if drawn % 11 == 0 else -(drawn % 1000) / 300

    return ScriptedGenerator(answer, score, {"model": "m"})


def chains() -> list[Chain]:
    return SelfCritique(rounds=2, shots=2, seed=5).run(model(), ROWS)


def test_draws() -> None:
    assert row_id("How?") == "eef0a2d0134af11d" and row_id(CONVERSATION) == "75ec6f79af0b3ca6"
    assert row_id("q", "one", "two") == "8cb76920e8e46804"
    assert seed_of(0, "a", "draft", 0) == 8087343601450118072
    assert seed_of("0", "a", "draft", 0) == 1835771031535232336
    assert share_of(3, "x", "order") == 0.8199937943314213
    assert pick(3, 6, "shots", 1, "r") == [3, 1, 4]
    assert [weighted([1, 3, 0, 1], i) for i in range(12)] == [3, 0, 0, 0, 1, 0, 3, 1, 1, 0, 1, 1]


def test_the_built_in_constitution() -> None:
    built_in = load()
    sha256 = "ef6b0558b53d1fe40bba2180cac72be91a7d8083764f6b1092cd4e552dabc25a"
    assert built_in.sha256 == sha256
    assert built_in.draw("critique", 0, "a", 1).id == "no-harm"
    assert built_in.draw("revision", 0, "a", 1).id == "gives-reasons"
    assert built_in.draw("comparison", 0, "a", 1).id == "honest-doubt"


def test_chains_demonstrations_pairs_and_gates() -> None:
    made = chains()
    direct = SelfCritique(rounds=1, critique=False, transcripts=(), seed=5).run(model(), ROWS)
    rows = {
        "chains": [chain.to_row() for chain in made],
        "direct": [chain.to_row() for chain in direct],
        "demonstrations": demonstrations(made),
        "last": demonstrations(made, "last"),
        "revisions": pairs(made, "revision_vs_draft"),
        "rounds": pairs(made, ("rounds", 2, 1)),
        "sampled": sampled_pairs(model(), ROWS, seed=5),
        "gates": check(made).to_row(),
    }
    assert {name: digest(value) for name, value in rows.items()} == {
        "chains": "64d362ca52496e88",
        "direct": "9cd6f76502a63ef7",
        "demonstrations": "1018fa9c53db7e5d",
        "last": "798e3d2cfdfffe60",
        "revisions": "3415400d100a09de",
        "rounds": "c856f086ea515cee",
        "sampled": "4cec422a77f9f3cf",
        "gates": "57cb06e144a0c4db",
    }


@pytest.mark.parametrize(("chain_of_thought", "swap"), LABELS)
def test_labels(chain_of_thought: bool, swap: bool) -> None:
    made = sampled_pairs(model(), ROWS, seed=5) + pairs(chains(), "revision_vs_draft")
    feedback = AIFeedback(chain_of_thought=chain_of_thought, swap=swap, shots=2, seed=5)
    verdicts = feedback.label(model(), made)
    rows = [verdict.to_row() for verdict in verdicts]
    recorded = [rows, feedback.rows(verdicts), feedback.report(verdicts)._asdict()]
    assert digest(recorded) == LABELS[chain_of_thought, swap]


def test_a_journal_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text(JOURNAL, encoding="utf-8")
    journal = Journaled(model(), tmp_path / "j.jsonl")
    asked = Request([{"role": "user", "content": "How?"}], 1)
    assert journal.generate([asked]) == [Completion("é 7397", True)]
    scores = journal.option_logprobs([[{"role": "user", "content": "which?"}]], ["A", "B"])
    assert scores == [[-2.4233333333333333, -1.9833333333333334]]
    assert (journal.asked, journal.found) == (0, 2)
    again = Journaled(model(), tmp_path / "again.jsonl")
    again.generate([asked])
    again.option_logprobs([[{"role": "user", "content": "which?"}]], ["A", "B"])
    assert again.path.read_text(encoding="utf-8") == JOURNAL


def test_the_keys_of_a_whole_run(tmp_path: Path) -> None:
    journal = Journaled(model(), tmp_path / "j.jsonl")
    SelfCritique(rounds=2, shots=2, seed=5).run(journal, ROWS)
    made = sampled_pairs(model(), ROWS, seed=5)
    AIFeedback(chain_of_thought=True).label(journal, made)
    keys = [json.loads(line)["key"] for line in journal.path.read_text().splitlines()]
    assert digest(sorted(keys)) == "9482bdb76b527ce5"
