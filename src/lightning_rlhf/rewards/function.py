"""A reward from a Python function."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import islice
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.rewards.base import Reward, RewardInputs

# (prompts, completions, rows) -> scores
RewardFunction = Callable[[list[str], list[str], list[dict[str, Any]]], Sequence[float]]
SHOWN = 60  # characters of a text in a message


class FunctionReward(Reward):
    """Score with a function of texts and rows.

    Args:
        function: ``(prompts, completions, rows) -> scores``, one number for each completion; in
            YAML its dotted name.
        weight: factor in a sum of several rewards.
        time_limit: seconds that a call may take; the function then runs in a thread of its own.
            None for no limit, since a judge behind a slow server may take minutes.
    """

    def __init__(
        self, function: RewardFunction, weight: float = 1.0, time_limit: float | None = None
    ):
        super().__init__(getattr(function, "__name__", type(function).__name__), weight)
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit is seconds, more than 0, or None; got {time_limit}")
        self.function = function
        self.time_limit = time_limit

    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        """Score completions: (C,) fp32.

        Raises:
            ValueError: the function raises, takes too long, or does not return one finite number
                for each completion; names the function and the prompt.
        """
        scores = self._called(inputs)
        if len(scores) != len(inputs.completions):
            more = "or more " if len(scores) > len(inputs.completions) else ""
            raise ValueError(
                f"the reward {self.name} gave {len(scores)} {more}scores for "
                f"{len(inputs.completions)} completions{_first(inputs)}: return one number for each"
            )
        numbers = [self._number(score, i, inputs) for i, score in enumerate(scores)]
        return torch.tensor(numbers, device=backbone.base.device)

    def _called(self, inputs: RewardInputs) -> list[Any]:
        """Call the function, and read what it returns as a list."""
        try:
            returned = self._within_limit(inputs)
        except TimeoutError:
            raise ValueError(
                f"the reward {self.name} has not returned within its time_limit of "
                f"{self.time_limit:g} s{_first(inputs)}: raise the limit, or make it faster"
            ) from None
        except Exception as error:
            raise ValueError(
                f"the reward {self.name} raised {type(error).__name__}: {error} "
                f"({_place(error)}){_first(inputs)}"
            ) from error
        if not isinstance(returned, list):
            raise ValueError(
                f"the reward {self.name} returned {returned}{_first(inputs)}: return a list of "
                "finite numbers, one for each completion"
            )
        return returned

    def _within_limit(self, inputs: RewardInputs) -> Any:
        """Return a list of scores, or a description of what is none."""

        def call() -> Any:
            returned = self.function(inputs.prompts, inputs.completions, inputs.rows)
            return _as_list(returned, len(inputs.completions))

        if self.time_limit is None:
            return call()
        results: list[Any] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with torch.no_grad():
                    results.append(call())
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=work, name=self.name, daemon=True)
        thread.start()
        thread.join(self.time_limit)
        if thread.is_alive():
            raise TimeoutError
        if errors:
            raise errors[0]
        return results[0]

    def _number(self, score: Any, index: int, inputs: RewardInputs) -> float:
        try:
            number = float(score)
        except Exception:
            number = math.nan
        if not math.isfinite(number) or not torch.tensor(number, dtype=torch.float32).isfinite():
            prompt, completion = inputs.prompts[index], inputs.completions[index]
            raise ValueError(
                f"the reward {self.name} gave {_short(score)} for {_short(completion)} to the "
                f"prompt {_short(prompt)}: return finite numbers, below 3.4e38"
            )
        return number


def _as_list(returned: Any, count: int) -> list[Any] | str:
    """Read scores as a list; describe what holds no scores in the order of the completions."""
    if inspect.isawaitable(returned) or inspect.isasyncgen(returned):
        if inspect.iscoroutine(returned):
            returned.close()  # else Python warns that nobody awaited it
        return "a coroutine, which nobody awaits (it is `async`; call asyncio.run inside it)"
    if returned is None or isinstance(returned, str | bytes | Mapping | Set):
        return "None" if returned is None else f"a {type(returned).__name__}"
    try:
        return list(islice(returned, count + 1))
    except TypeError:
        if hasattr(type(returned), "__iter__") and getattr(returned, "ndim", 1) != 0:
            raise
        return f"{_short(returned)}, a {type(returned).__name__}"


def _place(error: BaseException) -> str:
    """Return the file and line in which a function raised, the deepest outside of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if f.filename != __file__] or list(frames)
    return f"{outside[-1].filename} line {outside[-1].lineno}" if outside else "no line"


def _first(inputs: RewardInputs) -> str:
    """Name the first prompt of a call."""
    return f" (first prompt {_short(inputs.prompts[0])})" if inputs.prompts else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN + 2 else f"{text[:SHOWN]}…{text[-1]}"
