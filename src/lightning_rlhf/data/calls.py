"""Arguments of tool calls: in the type that a template takes, and written as they are meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from lightning_rlhf.text.dialects import BadRow, Message


def with_arguments(call: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert the arguments of a call."""
    if not isinstance(call, dict):
        return call
    made = {**call, "arguments": convert(call["arguments"])} if "arguments" in call else dict(call)
    if isinstance(made.get("function"), dict):
        made["function"] = with_arguments(made["function"], convert)
    return made


def as_text(arguments: Any) -> Any:
    """Return arguments as JSON text."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def as_dict(arguments: Any) -> Any:
    """Return arguments as a dict.

    Raises:
        BadRow: their text is not a JSON object, or one that a dict cannot hold as it is.
    """
    if not isinstance(arguments, str):
        return arguments
    try:
        read = json.loads(arguments) if arguments.strip() else {}
        exact = json.loads(arguments, **EXACT) if arguments.strip() else {}
    except json.JSONDecodeError as reason:
        raise BadRow(f"the arguments of a tool call are not JSON: {reason.msg}") from reason
    if not isinstance(read, dict):
        raise BadRow(f"the arguments of a tool call are {type(read).__name__}, not named")
    if json.loads(json.dumps(read), **EXACT) != exact:
        raise BadRow("the arguments of a tool call hold a number of more digits than a float has")
    return read


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise BadRow("the arguments of a tool call name something twice")
    return made


# how JSON is read where nothing may change
EXACT: dict[str, Any] = {
    "parse_float": Decimal,
    "parse_constant": Decimal,
    "object_pairs_hook": _once,
}


def check_calls(message: Message, text: str) -> None:
    """Check that a text holds the calls of a message, each behind the one before.

    The arguments are there as JSON, in any spaces, or key by key and value by value, in their
    order.

    Raises:
        BadRow: a name or an argument is not there.
    """
    at = 0
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            continue
        found = text.find(name, at)
        if found < 0:
            raise BadRow("the chat template does not write the tool calls of an assistant turn")
        arguments = function.get("arguments")
        if not _holds(text[found:], arguments) and not _holds(text, arguments):
            raise BadRow(
                f"the chat template does not write the arguments of the call of {name!r} as they "
                "are in the row"
            )
        at = found + len(name)


def _holds(text: str, arguments: Any) -> bool:
    if isinstance(arguments, str):
        if arguments in text:
            return True
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except json.JSONDecodeError:
            return False
    if not arguments:
        return True
    squeezed = "".join(text.split())
    if any("".join(form.split()) in squeezed for form in _json(arguments)):
        return True
    at = 0
    for part in _parts(arguments):
        places = [(p, len(form)) for form in part if (p := text.find(form, at)) >= 0]
        if not places:
            return False
        place, size = min(places)
        at = place + size
    nested = [v for v in _containers(arguments) if v]
    return not any(str(v) in text and not any(f in text for f in _json(v)) for v in nested)


def _json(value: Any) -> tuple[str, str]:
    return json.dumps(value, ensure_ascii=False), json.dumps(value)


def _parts(value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the keys and values of arguments, each in the forms that it may have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (str(key), *(form[1:-1] for form in _json(str(key))))
            yield from _parts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, str):
        yield (value, value.strip(), *(form[1:-1] for form in _json(value)))
    else:
        yield (json.dumps(value), str(value))


def _containers(value: Any) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        if isinstance(one, dict | list):
            yield one
            yield from _containers(one)
