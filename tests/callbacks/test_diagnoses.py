"""Each diagnosis finds its illness, and nothing in a healthy or noisy run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fakes import HEALTHY, ILL, figures
from lightning_rlhf.callbacks.diagnoses import DIAGNOSES, Limits

LIMITS = Limits(watch="val/oracle_score")
PAGE = Path(__file__).parents[2] / "docs" / "methods" / "doctor.md"


def found(history: list[dict[str, float]], limits: Limits = LIMITS) -> dict[str, str]:
    sentences = {name: d.find(history, limits) for name, d in DIAGNOSES.items()}
    return {name: sentence for name, sentence in sentences.items() if sentence}


def test_there_is_an_ill_run_for_each() -> None:
    assert list(ILL) == list(DIAGNOSES)


@pytest.mark.parametrize("name", ILL)
def test_an_ill_run_has_that_illness_and_no_other(name: str) -> None:
    history = [figures(name, rollout) for rollout in range(1, 31)]
    assert list(found(history)) == [name]


@pytest.mark.parametrize("name", ILL)
def test_the_page_quotes_sentence_and_advice(name: str) -> None:
    history = [figures(name, rollout) for rollout in range(1, 31)]
    row = f"| `{name}` | {found(history)[name]} | {DIAGNOSES[name].advice} |"
    assert row in PAGE.read_text().splitlines()


def test_a_healthy_run_hears_nothing() -> None:
    """Also while it learns: score and KL rise, the critic starts badly, answers get longer."""
    history: list[dict[str, float]] = []
    for i in range(200):
        learnt = 1 - 0.97**i
        history.append(
            {
                **HEALTHY,
                "objective/scores": learnt,
                "objective/score_std": 0.5 - 0.3 * learnt,
                "objective/kl": 8 * learnt,
                "completions/mean_length": 20 + 6 * learnt,
                "completions/distinct_2": 0.8 - 0.1 * learnt,
                "value/explained_variance": -1.0 if i < 8 else 0.6 * learnt,
                "val/oracle_score": 0.5 + 0.4 * learnt,
            }
        )
        assert not found(history)


def test_nothing_is_said_of_what_nobody_logs() -> None:
    assert not found([{}] * 50)
    assert not found([{"objective/scores": rise / 10} for rise in range(50)])


@pytest.mark.parametrize(
    ("name", "figure", "silent", "fires"),
    [
        ("first_ratio", "policy/first_ratio_error", 0.9e-4, 1.1e-4),
        ("clipping", "policy/clipfrac", 0.29, 0.31),
        ("update_too_large", "policy/approxkl", 0.09, 0.11),
        ("kl_over_budget", "objective/kl", 49.0, 51.0),
        ("negative_kl", "objective/kl", -0.049, -0.051),
        ("critic_useless", "value/explained_variance", -0.019, -0.021),
    ],
)
def test_where_the_limit_is(name: str, figure: str, silent: float, fires: float) -> None:
    assert not found([{**HEALTHY, figure: silent}] * 40)
    assert list(found([{**HEALTHY, figure: fires}] * 40)) == [name]


def test_limits_are_taken_at_their_word() -> None:
    over = [{**HEALTHY, "objective/kl": 60.0}] * 30
    assert not found(over, Limits(kl_budget=None))
    assert (
        "the budget is 5"
        in found([{**HEALTHY, "objective/kl": 6.0}] * 30, Limits(kl_budget=5))["kl_over_budget"]
    )
    shorter = [{**HEALTHY, "completions/mean_length": 20.0 if i < 10 else 8.0} for i in range(20)]
    assert list(found(shorter)) == ["length_drifting"]
    assert not found(shorter, Limits(length_factor=3.0))
    assert not found(shorter[:19])  # windows overlap: too early to say


def test_a_score_that_rises_with_length_is_hacking() -> None:
    history = [figures("length_drifting", i) | {"objective/scores": i / 50} for i in range(1, 31)]
    assert list(found(history)) == ["length_drifting", "reward_hacking"]
    assert "tokens on average" in found(history)["reward_hacking"]


def watched(oracle: list[float], every: int, score_step: float = 0.02) -> list[dict[str, float]]:
    """Make a run that is validated every few rollouts; in between the last figure stays logged."""
    return [
        {**HEALTHY, "objective/scores": score_step * i, "val/oracle_score": oracle[i // every]}
        for i in range(every * len(oracle))
    ]


@pytest.mark.parametrize("every", [1, 3])
def test_a_held_out_figure_that_falls_is_hacking(every: int) -> None:
    rise = [0.5 + 0.02 * i for i in range(12)]
    fall = [rise[-1] - 0.02 * (i + 1) for i in range(12)]
    assert not found(watched(rise, every))
    sentence = found(watched(rise + fall, every))["reward_hacking"]
    assert "val/oracle_score fell from its best 0.71 to 0.52" in sentence
    assert not found(watched(rise + fall, every, score_step=0.0))  # both fall: no hacking
    assert not found(watched(rise + fall, every), Limits())  # no figure to watch


def noise(seed: int, memory: float, rollouts: int) -> list[dict[str, float]]:
    """Make figures that vary by chance only, each correlated with the one before."""
    spread = {
        "objective/kl": 0.02,
        "objective/scores": 0.1,
        "objective/score_std": 0.05,
        "completions/mean_length": 1.5,
        "completions/eos_share": 0.02,
        "completions/distinct_2": 0.03,
        "policy/first_ratio_error": 1e-6,
        "policy/clipfrac": 0.04,
        "policy/approxkl": 0.01,
        "value/explained_variance": 0.15,
        "val/oracle_score": 0.03,
    }
    middle = {**HEALTHY, "objective/kl": 0.01, "value/explained_variance": 0.05}
    middle["val/oracle_score"] = 0.6
    drawn = np.random.default_rng(seed).standard_normal((rollouts, len(spread)))
    for i in range(1, rollouts):
        drawn[i] = memory * drawn[i - 1] + (1 - memory**2) ** 0.5 * drawn[i]
    return [
        {
            name: middle[name] + size * value
            for (name, size), value in zip(spread.items(), row, strict=True)
        }
        for row in drawn.tolist()
    ]


def alarms(seed: int, memory: float, rollouts: int) -> set[str]:
    history, heard = noise(seed, memory, rollouts), set()
    for end in range(1, rollouts + 1):
        heard |= found(history[:end]).keys()
    return heard


@pytest.mark.parametrize(("memory", "most"), [(0.0, 0), (0.5, 2)])
def test_noise_is_rarely_called_an_illness(memory: float, most: int) -> None:
    """No false alarm in 60 runs of a hundred rollouts without a trend, tested after each rollout.

    With a correlation of 0.5 between rollouts the standard error is too small: 9 runs in 500.
    """
    runs = [alarms(seed, memory, 100) for seed in range(60)]
    assert sum(map(bool, runs)) <= most, [run for run in runs if run]
