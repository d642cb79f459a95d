"""One process with four rows and two with two make the same steps; ``benchmarks/`` has the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rank_runs import SAVED, SAVED_ONLINE, STEPS, fit, fit_all, ragged, result
from ranks import run_ranks

METHODS = ["SFT", "reward, rankings", "DPO with NLL", "KTO, labels", "PPO", "GRPO", "RLOO"]
ONLINE = ["PPO", "GRPO", "RLOO"]
FIXED = ["SFT", "KTO, labels"]
RESUMED = [*FIXED, *ONLINE]
pytestmark = pytest.mark.xdist_group("two processes")  # one pair of processes runs them all
TOKENS = {"name": "DPO", "rows": 80, "data": {"max_tokens": 60}}  # batches of a token budget
STREAM = {"name": "SFT", "source": "rows.jsonl", "dropout": 0.3}
UNEVEN: dict[str, dict[str, Any]] = {
    "31 rows": {"name": "SFT", "rows": 31, "data": {"batch_size": 4}},
    "29 rows": {"name": "KTO, labels", "rows": 29, "data": {"batch_size": 4}},
    "5 rows, accumulated": {"name": "SFT", "rows": 5, "accumulate_grad_batches": 2},
    "5 prompts": {"name": "PPO", "rows": 5},
    "a token budget": {"name": "DPO", "rows": 31, "data": {"max_tokens": 120}},
}


def resume(run: dict[str, Any], saves: str) -> dict[str, Any]:
    step = SAVED_ONLINE if run["name"] in ONLINE else SAVED
    return {**run, "saves": saves, "resume": f"{run['saves']}/step={step}.ckpt"}


@pytest.fixture(scope="module")
def runs(one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run of this file: 4 ragged rows a step, 8 steps of Adam, 5 of them an epoch."""
    folder = tmp_path_factory.mktemp("ranks")
    lines = [json.dumps(row) + "\n" for row in ragged("demonstrations", 40)]
    (folder / "rows.jsonl").write_text("".join(lines))
    one = {m: {"name": m, "saves": f"{m}.1"} for m in METHODS}
    two = {m: {"name": m, "saves": f"{m}.2"} for m in METHODS}
    tokens_1 = {**TOKENS, "saves": "tokens.1", "accumulate_grad_batches": 2}
    tokens_2 = {**TOKENS, "saves": "tokens.2"}
    stream = {**STREAM, "saves": "stream.2"}
    to_2 = {**resume(tokens_1, "1 to 2, tokens"), "accumulate_grad_batches": 1}
    to_1 = {**resume(tokens_2, "2 to 1, tokens"), "accumulate_grad_batches": 2}
    epoch = {"max_steps": -1, "max_epochs": 1, "val_check_interval": 1.0}
    accumulated = {"name": "SFT", "accumulate_grad_batches": 2}
    legs = [
        (1, [*one.values(), tokens_1]),
        (1, [{**accumulated, "saves": "1 x 2 x 2", "data": {"batch_size": 2}}]),
        (2, [*two.values(), tokens_2, stream, resume(stream, "2 to 2, stream")]),
        (2, [{**accumulated, "saves": "2 x 1 x 2", "data": {"batch_size": 1}}]),
        (2, [resume(two[m], f"2 to 2, {m}") for m in RESUMED]),
        (2, [to_2, *(resume(one[m], f"1 to 2, {m}") for m in FIXED)]),
        (1, [to_1, *(resume(two[m], f"2 to 1, {m}") for m in FIXED)]),
        (2, [{**run, **epoch, "saves": name} for name, run in UNEVEN.items()]),
    ]
    made = [(n, fit_all, {"runs": [{"base": one_layer, **r} for r in some]}) for n, some in legs]
    run_ranks(folder, made)
    return folder


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def assert_same_steps(one: dict[str, Any], other: dict[str, Any], steps: int = STEPS) -> None:
    """The last steps of a run are those of another, to rounding."""
    assert one["steps"] == other["steps"] == STEPS
    for a, b in zip(one["gradients"][-steps:], other["gradients"], strict=True):
        assert largest(a - b) <= 1e-4 * largest(a)
    assert largest(one["weights"] - other["weights"]) <= 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one(runs: Path, method: str) -> None:
    one, two = result(runs, f"{method}.1"), result(runs, f"{method}.2")
    assert_same_steps(one, two)
    for alone, shared in zip(one["logged"], two["logged"], strict=True):
        assert alone.keys() == shared.keys()
        same = {n: v for n, v in alone.items() if not n.startswith(("time/", "memory/"))}
        same.pop("value/clipfrac", None)  # whether a value that has not moved is clipped: rounding
        assert {n: shared[n] for n in same} == pytest.approx(same, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_measure_the_same_on_held_out_rows(runs: Path, method: str) -> None:
    one, two = (result(runs, f"{method}.{n}")["metrics"] for n in (1, 2))
    same = {name: value for name, value in one.items() if name.startswith("val/")}
    assert len(same) >= 2
    assert same.keys() <= two.keys()
    same.pop("val/perplexity", None)  # of single batches
    assert {name: two[name] for name in same} == pytest.approx(same, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_both_processes_hold_the_same(runs: Path, method: str) -> None:
    first, second = result(runs, f"{method}.2", 0), result(runs, f"{method}.2", 1)
    assert torch.equal(first["weights"], second["weights"])
    assert first.get("shaper") == second.get("shaper")


@pytest.mark.parametrize("cut", ["1 x 2 x 2", "2 x 1 x 2"])
def test_a_token_weighs_the_same_however_its_step_is_cut(runs: Path, cut: str) -> None:
    """Processes x batch x accumulated batches."""
    assert_same_steps(result(runs, "SFT.1"), result(runs, cut))


def test_batches_of_a_token_budget_are_accumulated_or_dealt_out(runs: Path) -> None:
    assert_same_steps(result(runs, "tokens.1"), result(runs, "tokens.2"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("method", [*RESUMED, "stream"])
def test_two_processes_resume_to_the_same_bits(runs: Path, method: str, rank: int) -> None:
    whole, resumed = result(runs, f"{method}.2", rank), result(runs, f"2 to 2, {method}", rank)
    assert torch.equal(whole["weights"], resumed["weights"])
    left = STEPS - (SAVED_ONLINE if method in ONLINE else SAVED)
    assert torch.equal(whole["gradients"][-left:], resumed["gradients"])
    assert whole.get("shaper") == resumed.get("shaper")


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("method", [*FIXED, "tokens"])
def test_another_number_of_processes_goes_on(
    runs: Path, method: str, before: int, now: int
) -> None:
    whole, resumed = (
        result(runs, f"{method}.{before}"),
        result(runs, f"{before} to {now}, {method}"),
    )
    assert_same_steps(whole, resumed, steps=STEPS - SAVED)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"name": "PPO"}, "2 processes, each with a rollout of its own.*resume with 2, or start"),
        (STREAM, "2 processes, each with a position in the stream"),
        ({"name": "SFT", "data": {"batch_size": 2}}, r"2 x 2 x 1 = 4 rows.*1 x 2 x 1 = 2 rows"),
        (TOKENS, "2 x 1 x 1 = 2 batches of 60 tokens.*accumulate_grad_batches so that"),
    ],
    ids=["rollouts", "a stream", "fewer rows", "fewer batches"],
)
def test_a_run_that_cannot_go_on_as_it_was_is_refused(
    runs: Path, one_layer: str, run: dict[str, Any], said: str
) -> None:
    saves = "tokens.2" if run is TOKENS else "stream.2" if run is STREAM else f"{run['name']}.2"
    with pytest.raises(ValueError, match=said):
        fit(runs, 0, 1, base=one_layer, **resume({**run, "saves": saves}, "refused"))


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_ends_end(runs: Path, name: str) -> None:
    first, second = result(runs, name, 0), result(runs, name, 1)
    assert first["steps"] == second["steps"] > 0
    assert torch.equal(first["weights"], second["weights"])
