"""Bound what a chat template may do: steps, size and time. A template is a stranger's program.

``apply_chat_template`` compiles a template in a Jinja sandbox, which keeps it from files and from
Python's own parts. It may still loop for ever, or fill the memory. While we render, the template is
compiled in a sandbox that counts its loops, calls, filters and operators.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

MAX_STEPS = 1_000_000  # turns of loops, calls, filters and operators
MAX_SIZE = 1 << 28  # characters and list entries that are made, counted each time
MAX_SECONDS = 10.0
MAX_BITS = 1 << 14  # of a whole number
STEPS_PER_LOOK = 256  # at the clock
# functions whose result may be longer than all that they are given
GROWING = {
    "batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace",
    "rjust", "slice", "to_bytes", "tojson", "wordwrap", "zfill",
}  # fmt: skip
WIDE = re.compile(r"\d{6}|\*|:[^}]*\{")  # a width in a text to format: large, or given from outside
SIZED = (str, bytes, list, tuple, dict, range)


class Excess(TemplateError):
    """A template that does more than any conversation needs."""


class Budget:
    """Count what one rendering uses.

    Args:
        today: the date for a template that asks the clock; None for the time that it is.
    """

    def __init__(self, today: date | None = None) -> None:
        self.today = today
        self.steps, self.size = 0, 0
        self.end = time.monotonic() + MAX_SECONDS

    def step(self, steps: int = 1) -> None:
        """Take steps; look at the clock now and then."""
        look = (self.steps + steps) // STEPS_PER_LOOK > self.steps // STEPS_PER_LOOK
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise Excess(f"it takes more than {MAX_STEPS:,} steps")
        if look and time.monotonic() > self.end:
            raise Excess(f"it takes more than {MAX_SECONDS:g} seconds")

    def add(self, size: int) -> None:
        """Make so many characters or entries."""
        self.size += size
        if self.size > MAX_SIZE:
            raise Excess(f"it makes more than {MAX_SIZE:,} characters")

    def grow(self, name: str, given: list[Any]) -> None:
        """Check, before it is called, a function that may make much of what it is given."""
        first = given[0] if given else None
        if name.startswith("format"):
            if isinstance(first, str) and WIDE.search(first):
                raise Excess("it formats a text to a width that is not plain")
        elif name == "replace" and len(given) > 2 and all(isinstance(g, str) for g in given[:3]):
            self.add(given[0].count(given[1]) * len(given[2]))
        elif name == "join":
            self.add(max(map(size_of, given)) * sum(size_of(g) for g in given if g != ""))
        elif name != "tojson" or any(isinstance(g, int) and g > 99 for g in given):
            product = 1
            for value in given:
                product *= max(abs(value) if isinstance(value, int) else size_of(value), 1)
            self.add(product)


BUDGET: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def bounded(today: date | None = None) -> Iterator[None]:
    """Render within bounds.

    Raises:
        Excess: the template needs more.
    """
    token = BUDGET.set(Budget(today))
    compile_theirs = chat_template_utils._compile_jinja_template
    chat_template_utils._compile_jinja_template = _compiled
    try:
        yield
    finally:
        chat_template_utils._compile_jinja_template = compile_theirs
        BUDGET.reset(token)


@lru_cache
def _compiled(template: str) -> Template:
    theirs = chat_template_utils._cached_compile_jinja_template("").environment
    environment = theirs.overlay()  # their filters, functions and tags
    environment.__class__ = BoundedEnvironment
    own = {"_each": _each, "_made": _made, "_written": _written}
    filters = {name: _counted(name, filter) for name, filter in theirs.filters.items()}
    environment.filters = {**filters, **own}
    environment.globals = {**theirs.globals, "strftime_now": _now}
    for name, table in (("lipsum", environment.globals), ("random", environment.filters)):
        table.pop(name)  # tokens are not drawn
    made: Template = environment.from_string(template)
    return made


def variables(template: str) -> set[str]:
    """Return the names that a template reads and does not set; none if it is broken."""
    with bounded():
        try:
            parsed = _compiled(template).environment.parse(template)
        except TemplateError:
            return set()
    found: set[str] = meta.find_undeclared_variables(parsed)
    return found


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox that counts."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = Counting().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = BUDGET.get()
        budget.step()
        numbers = [abs(v) for v in (left, right) if isinstance(v, int)]
        if len(numbers) == 2:
            power = operator == "**" and numbers[0].bit_length() * numbers[1]
            if power > MAX_BITS or max(numbers).bit_length() > MAX_BITS:
                raise Excess("it makes too large a number")
        elif operator == "*" and numbers:
            budget.add(numbers[0] * (size_of(left) + size_of(right)))
        elif operator == "+":
            budget.add(size_of(left) + size_of(right))
        elif operator == "%":
            budget.grow("format", [left])
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        given = [getattr(bound, "__self__", None), *args, *kwargs.values()]
        return _run(
            getattr(bound, "__name__", ""), given, super().call, context, obj, *args, **kwargs
        )


class Counting(NodeTransformer):
    """Put a count into the loops of a template, its joined texts, and all that it writes."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through("_each", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _through("_made", node)

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = _through("_made", node.filter)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [_through("_written", _as_constant(child)) for child in node.nodes]
        return node


def size_of(value: Any) -> int:
    """Count the characters or entries of a value."""
    return len(value) if isinstance(value, SIZED) else 0


def _through(name: str, node: Any) -> nodes.Filter:
    fields: Any = (node, name, [], [], None, None)
    return nodes.Filter(*fields, lineno=node.lineno if node else 1)


def _as_constant(node: nodes.Expr) -> nodes.Expr:
    if isinstance(node, nodes.TemplateData):
        return nodes.Const(node.data, lineno=node.lineno)
    return node


def _each(values: Any) -> Any:
    """Count the turns of a loop; a long one turn by turn."""
    budget = BUDGET.get()
    if isinstance(values, SIZED) and len(values) < STEPS_PER_LOOK:
        budget.step(len(values) + 1)
        return values
    return _one_by_one(values, budget)


def _one_by_one(values: Iterable[Any], budget: Budget) -> Iterator[Any]:
    for value in values:
        budget.step()
        yield value


def _made(value: Any) -> Any:
    BUDGET.get().add(size_of(value))
    return value


def _written(value: Any) -> Any:
    budget = BUDGET.get()
    budget.step()
    budget.add(len(value if isinstance(value, str) else str(value)))
    return value


def _counted(name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(filter)  # and the marks by which Jinja gives it a context
    def run(*args: Any, **kwargs: Any) -> Any:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, (*SIZED, int))]
        return _run(name, given, filter, *args, **kwargs)

    return run


def _run(
    name: str, given: list[Any], function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    budget = BUDGET.get()
    budget.step()
    if name in GROWING:
        budget.grow(name, given)
    made = function(*args, **kwargs)
    if not isinstance(made, range):
        budget.add(size_of(made))
    return made


def _now(format: str) -> str:
    """The date of the run, so that tokens do not change over midnight."""
    today = BUDGET.get().today
    now = datetime.now() if today is None else datetime.combine(today, datetime.min.time())
    return now.strftime(format)
