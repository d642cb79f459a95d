"""The loop against a chain written by hand, and draws that depend on their row alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.constitution.chain import Chain, Draft, Round
from lightning_rlhf.constitution.generator import Completion
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.seeds import row_id, seed_of
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.constitution.transcripts import Transcript
from lightning_rlhf.text.messages import Message

TWO = Constitution(
    "two",
    "1",
    (Principle("kind", "rude ?", "be kind"), Principle("true", "wrong ?", "be right")),
)


def shot(id: str, revision: str) -> Transcript:
    return Transcript(
        id, "q", "a", critique_request="cr", critique="c", revision_request="rr", revision=revision
    )


SHOT = shot("s", "r")


def counting(messages: list[Message], seed: int) -> str:
    """Answer with the last message and the number of messages."""
    return f"[{messages[-1]['content']} x{len(messages)}]"


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def test_four_rounds_written_by_hand() -> None:
    script = iter(
        ["you fool", "rude: fool", "you friend", "fine", "you friend"]
        + ["wrong: 5", "it is 4", "rude: curt", "it is 4 , friend"]
    )
    answers: dict[str, str] = {}

    def answer(messages: list[Message], seed: int) -> Completion:
        return Completion(answers.setdefault(str(seed), next(script)), len(messages) != 5)

    loop = SelfCritique(TWO, rounds=4, transcripts=(), seed=3)
    generator = ScriptedGenerator(answer, identity={"model": "by hand"})
    (chain,) = loop.run(generator, [{"id": "sum", "prompt": "2 + 2 ?"}])

    drawn = [TWO[name] for name in ("kind", "kind", "true", "kind")]  # by seed 3
    texts = [
        ("rude: fool", "you friend"),
        ("fine", "you friend"),
        ("wrong: 5", "it is 4"),
        ("rude: curt", "it is 4 , friend"),
    ]
    rounds = tuple(
        Round(
            p.id,
            p.critique,
            critique,
            critique_finished=True,
            critique_seed=seed_of(3, "sum", "critique", k),
            revision_request=p.revision,
            revision=revision,
            finished=False,
            seed=seed_of(3, "sum", "revision", k),
        )
        for k, (p, (critique, revision)) in enumerate(zip(drawn, texts, strict=True), 1)
    )
    assert chain == Chain(
        "sum",
        "2 + 2 ?",
        Draft("you fool", True, seed_of(3, "sum", "draft", 0)),
        rounds=rounds,
        shots=(),
        generator={"model": "by hand"},
        constitution=TWO.stamp,
        seed=3,
    )
    assert generator.calls == 1 + 2 * 4

    before = ["you fool", "you friend", "you friend", "it is 4"]
    sent = [[user("2 + 2 ?")]]
    for p, old, (critique, _) in zip(drawn, before, texts, strict=True):
        asked = [user("2 + 2 ?"), assistant(old), user(p.critique)]
        sent += [asked, [*asked, assistant(critique), user(p.revision)]]
    assert [r.messages for r in generator.requests] == sent
    kept = [chain.sent("draft")]
    kept += [chain.sent(stage, k) for k in (1, 2, 3, 4) for stage in ("critique", "revision")]
    assert kept == sent
    assert Chain.from_row(json.loads(json.dumps(chain.to_row()))) == chain


def test_without_a_critique_the_answer_is_revised_directly() -> None:
    loop = SelfCritique(TWO, rounds=1, transcripts=[SHOT], critique=False)
    generator = ScriptedGenerator(counting)
    (chain,) = loop.run(generator, [{"prompt": "hello"}])
    assert generator.calls == 2
    request = chain.rounds[0].revision_request
    shot = [user("q"), assistant("a"), user("rr"), assistant("r")]
    sent = [*shot, user("hello"), assistant("[hello x1]"), user(request)]
    assert generator.requests[-1].messages == sent == chain.sent("revision", 1)
    assert chain.rounds[0].critique == "" and chain.rounds[0].critique_seed is None


def test_a_conversation_keeps_its_turns_with_the_system_turn_first() -> None:
    prompt = [{"role": "system", "content": "S"}, user("1"), assistant("2"), user("3")]
    generator = ScriptedGenerator(counting)
    (chain,) = SelfCritique(TWO, rounds=1, transcripts=[SHOT]).run(generator, [{"prompt": prompt}])
    sent = generator.requests[1].messages
    assert sent[0] == {"role": "system", "content": "S"}
    assert sent[1:7] == SHOT.messages()
    assert sent[7:10] == prompt[1:] and sent[10] == assistant("[3 x4]")
    assert chain.sent("critique", 1) == sent and chain.id == row_id(prompt)


def test_shots_are_drawn_for_each_row() -> None:
    many = [shot(str(i), str(i)) for i in range(6)]
    loop = SelfCritique(TWO, rounds=2, transcripts=many, shots=2)
    chains = loop.run(ScriptedGenerator(counting), [{"prompt": f"p{i}"} for i in range(40)])
    picks = {tuple(m["content"] for m in c.shots[5::6]) for c in chains}
    assert all(len(set(pick)) == 2 for pick in picks) and len(picks) > 10
    with pytest.raises(ValueError, match="shots is 7, and there are 6"):
        SelfCritique(TWO, transcripts=many, shots=7)


prompts = st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@settings(max_examples=40, deadline=None)
@given(prompts, st.integers(0, 3), st.randoms(use_true_random=False))
def test_chains_depend_on_their_row_alone(texts: list[str], seed: int, random: Any) -> None:
    def answer(messages: list[Message], seed: int) -> Completion:
        return Completion(str(seed_of(messages, seed) % 97), seed % 3 > 0)

    loop = SelfCritique(TWO, rounds=2, transcripts=[SHOT], seed=seed)
    rows = [{"prompt": text} for text in texts]
    once = {c.id: c for c in loop.run(ScriptedGenerator(answer), rows)}
    mixed = random.sample(rows, len(rows))
    assert {c.id: c for c in loop.run(ScriptedGenerator(answer), mixed)} == once
    (alone,) = loop.run(ScriptedGenerator(answer), [rows[0]])
    assert alone == once[alone.id]
    other = SelfCritique(TWO, rounds=2, transcripts=[SHOT], seed=seed + 1)
    assert other.run(ScriptedGenerator(answer), rows)[0].draft.seed != alone.draft.seed


def test_errors_of_wrong_rows() -> None:
    loop = SelfCritique(TWO, transcripts=())
    for rows, error in [
        ([{"prompt": [assistant("x")]}], "row 1: the prompt ends with the role 'assistant'"),
        ([{"question": "x"}], "row 1 has no prompt: give it one as text or as messages"),
        ([{"prompt": ["x"]}], "row 1: a message of the prompt lacks role or content"),
        ([{"id": 1, "prompt": t} for t in "xy"], "row 2 has the id '1' of another prompt"),
    ]:
        with pytest.raises(ValueError, match=error):
            loop.run(ScriptedGenerator(counting), rows)
    with pytest.raises(ValueError, match="no principle with a critique text"):
        SelfCritique(Constitution("c", "1", (Principle("a", comparison="which?"),)))
