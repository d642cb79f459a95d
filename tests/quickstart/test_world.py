"""The oracle agrees with verdicts made by hand."""

import itertools
import random
import string
import subprocess
import sys
from collections import Counter

import pytest

from lightning_rlhf.quickstart import world
from lightning_rlhf.quickstart.world import (
    ANSWER_WORDS,
    FILLER,
    MANNERS,
    REASONS,
    RUDE,
    SMALLEST_GAP,
    TASKS,
    World,
    oracle_verdict,
)

BRIEF = "ask : briefly , the colour of snow ? answer :"
POLITE = "ask : politely , the colour of snow ? answer :"
REASON = "ask : with a reason , the colour of snow ? answer :"
LIST = "ask : as a list , name two fruits ? answer :"


def task_of(prompt: str) -> str:
    return prompt.split(" , ", 1)[1]


def manner_of(prompt: str) -> str:
    return prompt.removeprefix("ask : ").split(" , ", 1)[0]


def faults(prompt: str, answer: str) -> str:
    """The findings that do not hold for a finished answer, in the order of the fields."""
    verdict = oracle_verdict(prompt, answer, finished=True)
    return " ".join(name for name, holds in verdict._asdict().items() if not holds)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (BRIEF, "white ."),
        (POLITE, "certainly , white ."),
        (REASON, "white because i saw it ."),
        ("ask : with a greeting , the home of a king ? answer :", "hello friend , palace ."),
        ("ask : with doubt , what comes after nine ? answer :", "perhaps ten ."),
        ("ask : shouting , which is bigger , ant or cat ? answer :", "cat ! !"),
        ("ask : with thanks , the plural of mouse ? answer :", "mice . thank you ."),
        ("ask : briefly , name two fruits ? answer :", "plum and mango ."),
        (LIST, "- plum - mango"),
        (LIST, "- mango - plum"),
    ],
)
def test_good_answers_are_fully_good_until_left_unfinished(prompt: str, answer: str) -> None:
    assert oracle_verdict(prompt, answer, finished=True).fully_good
    assert oracle_verdict(prompt, answer, finished=True).score == 1.0
    assert not oracle_verdict(prompt, answer, finished=False).fully_good
    assert oracle_verdict(prompt, answer, finished=False).score == 0.9


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        # one fault each
        (POLITE, "certainly , black .", "correct"),
        (POLITE, "white .", "manner"),
        (POLITE, "certainly , stupid white .", "clean"),
        (POLITE, "certainly , white . blah um blah", "clean"),
        # the wrong manner, two manners, a manner that was not asked, a manner half kept
        (POLITE, "perhaps white .", "manner"),
        (POLITE, "certainly , perhaps white .", "manner"),
        (POLITE, "certainly , white ! !", "manner"),
        (BRIEF, "certainly , white .", "manner"),
        (POLITE, "certainly white .", "manner"),
        (POLITE, "certainly , white", "manner"),
        (REASON, "white because i heard it .", "manner"),  # the reason of another kind of task
        # content
        (POLITE, "certainly , white and black .", "correct"),
        (LIST, "- plum", "correct"),
        (LIST, "- plum - plum", "correct manner clean"),
        (LIST, "- plum - hammer", "correct"),
        (LIST, "- plum - mango - apple", "correct"),
        # rambling without a filler word
        (BRIEF, "white . white . white .", "manner clean"),
        (BRIEF, "white " + ". " * 12, "manner clean"),
        # garbage
        (POLITE, "", "correct manner clean"),
        (POLITE, "certainly , .", "correct manner"),
        (POLITE, "<unk> <unk>", "correct manner clean"),
        (POLITE, "Certainly , white .", "manner clean"),
        (POLITE, "answer : certainly , white .", "manner clean"),
    ],
)
def test_faults_of_flawed_answers(prompt: str, answer: str, expected: str) -> None:
    assert faults(prompt, answer) == expected


def test_score_is_the_documented_sum() -> None:
    assert oracle_verdict(POLITE, "certainly , black .", True).score == 0.6
    assert oracle_verdict(POLITE, "white .", True).score == 0.7
    assert oracle_verdict(POLITE, "certainly , duh white .", True).score == 0.8
    assert oracle_verdict(POLITE, "", False).score == 0.0


def test_judging_random_text_never_fails_and_never_praises_it() -> None:
    rng = random.Random(0)
    words = [*World().vocabulary(), *string.ascii_letters]
    for prompt in World().prompts(held_out=True):
        verdict = oracle_verdict(prompt, " ".join(rng.choices(words, k=rng.randrange(20))), True)
        assert 0.1 <= verdict.score < 1.0


def test_unknown_prompt_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the colour of jazz"):
        oracle_verdict("ask : briefly , the colour of jazz ? answer :", "blue .", True)


def test_split_is_a_quarter_disjoint_and_shows_every_task_and_manner_in_training() -> None:
    seen, unseen = World().prompts(held_out=False), World().prompts(held_out=True)
    assert len(set(seen) | set(unseen)) == len(seen) + len(unseen) == len(TASKS) * len(MANNERS)
    assert len(unseen) * 4 == len(TASKS) * len(MANNERS)
    assert {task_of(prompt) for prompt in seen} == {task_of(prompt) for prompt in unseen}
    assert {manner_of(prompt) for prompt in seen} == set(MANNERS)
    # No manner is held out so often that training hardly shows it.
    assert min(Counter(map(manner_of, seen)).values()) > len(TASKS) / 2


def test_split_is_the_same_for_every_seed_and_process() -> None:
    # By its path: the package itself would import torch, twice.
    code = (
        f"import runpy; w = runpy.run_path({world.__file__!r}); print(w['World'](7).prompts(True))"
    )
    for hash_seed in "1", "2":
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert printed == f"{World(0).prompts(True)}\n"


def test_training_rows_never_show_a_held_out_combination_and_show_every_other() -> None:
    micro = World(3)
    seen = set(micro.prompts(held_out=False))
    assert {row["prompt"] for row in micro.demonstrations(len(seen))} == seen
    assert {row["prompt"] for row in micro.preferences(len(seen))} == seen
    unseen = set(micro.prompts(held_out=True))
    assert {row["prompt"] for row in micro.preferences(len(unseen), held_out=True)} == unseen


def test_every_word_of_every_row_is_in_a_vocabulary_of_the_promised_size() -> None:
    micro = World(1)
    vocabulary = micro.vocabulary()
    assert 200 <= len(vocabulary) <= 300
    assert vocabulary == sorted(set(vocabulary))
    rows = [*micro.demonstrations(3000), *micro.preferences(3000), *micro.preferences(500, True)]
    texts = [*micro.prompts(True), *micro.prompts(False), *(t for r in rows for t in r.values())]
    assert {word for text in texts for word in text.split()} <= set(vocabulary)


def test_no_word_has_two_roles() -> None:
    """An answer word that is also filler or part of a manner would blur the oracle."""
    frames = " ".join([*itertools.chain(*MANNERS.values()), *REASONS.values()]).split()
    roles = [ANSWER_WORDS, set(RUDE), set(FILLER), {*frames, "and"}]
    for one, other in itertools.combinations(roles, 2):
        assert not one & other


def test_same_seed_same_rows_other_seed_other_rows_and_calls_do_not_interact() -> None:
    micro = World(5)
    first = micro.demonstrations(50)
    micro.preferences(10)
    assert micro.demonstrations(80)[:50] == first == World(5).demonstrations(50)
    assert first != World(6).demonstrations(50)
    assert micro.preferences(50) == World(5).preferences(50) != World(6).preferences(50)


def test_demonstrations_are_of_mixed_quality() -> None:
    verdicts = [
        oracle_verdict(r["prompt"], r["completion"], True) for r in World().demonstrations(8000)
    ]
    correct, manner, clean, _ = (sum(column) / 8000 for column in zip(*verdicts, strict=True))
    # Closed forms. The brief eighth of the prompts is served by ignoring the manner too; another
    # manner is drawn 0.05 of the time and is the asked one in an eighth of these draws.
    assert correct == pytest.approx(1 - 0.1, abs=0.015)
    assert manner == pytest.approx(0.45 + 0.05 / 8 + 0.5 / 8, abs=0.02)
    assert clean == pytest.approx((1 - 0.08) ** 2, abs=0.015)
    assert 0.35 < sum(v.fully_good for v in verdicts) / 8000 < 0.45


def gaps(rows: list[dict[str, str]]) -> list[float]:
    return [
        oracle_verdict(r["prompt"], r["chosen"], True).score
        - oracle_verdict(r["prompt"], r["rejected"], True).score
        for r in rows
    ]


def test_held_out_labels_are_the_oracles_own_whatever_the_noise() -> None:
    assert min(gaps(World().preferences(2000, held_out=True, noise=0.5))) > SMALLEST_GAP


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0])
def test_training_labels_are_wrong_as_often_as_asked(noise: float) -> None:
    found = gaps(World().preferences(4000, noise=noise))
    assert min(map(abs, found)) > SMALLEST_GAP
    # Four standard deviations of a binomial share at most.
    assert sum(gap < 0 for gap in found) / 4000 == pytest.approx(noise, abs=0.03)


def test_noise_flips_labels_and_changes_nothing_else() -> None:
    clean, noisy = World().preferences(500, noise=0.0), World().preferences(500, noise=0.1)
    for one, other in zip(clean, noisy, strict=True):
        assert {one["chosen"], one["rejected"]} == {other["chosen"], other["rejected"]}


def test_noise_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        World().preferences(1, noise=1.5)
