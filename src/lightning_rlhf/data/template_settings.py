"""Which template is used, and with which arguments."""

from __future__ import annotations

import inspect
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.sandbox import variables

# a name or a file; or a dict of it as "name", a "date", and arguments of the chat template
Template = str | dict[str, Any]
# what a rendering gives a template by itself
OWN = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"}


class TemplateSettings(NamedTuple):
    """A template and its arguments.

    Raises:
        ValueError: an argument that no template can be given.
    """

    name: str  # "auto", "plain", "raw" or a file
    arguments: dict[str, Any]
    date: date | None  # for a template that asks for today's

    @classmethod
    def read(cls, template: Template) -> TemplateSettings:
        """Read the ``template`` argument of a data module."""
        if isinstance(template, str):
            return cls(template, {}, None)
        given = dict(template)
        name, day = str(given.pop("name", "auto")), given.pop("date", None)
        own = next((key for key in given if key in OWN), None)
        if own is not None:
            raise ValueError(f"template: {own!r} is not for you to give, every rendering sets it")
        try:
            return cls(name, given, None if day is None else date.fromisoformat(str(day)))
        except ValueError as error:
            raise ValueError(f"template: date is {day!r}, give it as 2026-01-31") from error

    def text(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """Return the text of the chat template; None without one.

        Raises:
            FileNotFoundError: the template is neither a name nor a file.
            ValueError: it has no use for an argument.
        """
        text: str | None = None
        if self.name == "auto":
            text = tokenizer.get_chat_template() if tokenizer.chat_template else None
        elif self.name not in ("plain", "raw"):
            if not Path(self.name).is_file():
                raise FileNotFoundError(
                    f'template {self.name!r} is neither "auto", "plain", "raw" nor a file: '
                    "give one of these"
                )
            text = Path(self.name).read_text(encoding="utf-8")
        self._check_arguments(text)
        return text

    def _check_arguments(self, text: str | None) -> None:
        given = [*self.arguments, *["date"] * (self.date is not None)]
        if not given:
            return
        if text is None:
            raise ValueError(
                f"template: {given[0]!r} is an argument of a chat template, and "
                + ("the tokenizer has none" if self.name == "auto" else f"{self.name!r} is not one")
            )
        known = variables(text)
        asked = known | {"date"} if "strftime_now" in text else known
        unknown = [name for name in given if known and name not in asked]
        if unknown:
            raise ValueError(
                f"template: the chat template does not use {unknown[0]!r}; it uses "
                f"{', '.join(sorted(asked - OWN))}"
            )
