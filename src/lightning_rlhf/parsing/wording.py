"""Patterns of the messages of jsonargparse; ``pyproject.toml`` pins its minor version for them."""

from __future__ import annotations

import re

BAD_CONFIG = re.compile(r"Problems parsing config|File does not exist")
BAD_VERB = re.compile(r"argument subcommand: invalid choice: '([^']+)'")
BAD_YAML = re.compile(r"Problems parsing config: (?s:.*)line (\d+), column (\d+)\n(.*)")
CHOICES = re.compile(r"Expected a typing.Literal\[(.*)\]")
CLASS_PATH = re.compile(r"given class_path '([\w.]+)'")
GIVEN_CLASS = re.compile(r"is not accepted. Got value: Namespace\(class_path='([\w.]+)'")
GIVEN_VALUE = re.compile(r"Given value: (.*)")
GROUP = re.compile(r"Group '([\w.]+)' does not accept")
KEY = re.compile(r'Parser key "([\w.]+)"')
LAST_KEY = re.compile(r'Parser key "(?:trainer\.)?(\w+)"')
OPTION_OF_A_CLASS = re.compile(r"Option '([\w.]+)' is not accepted")
OTHER_PACKAGE = re.compile(r"\blightning\.pytorch[\w.]*")
REQUIRED = re.compile(r"arguments are required: (?:(?:fit|validate|test|predict)\.)?(\w+)")
TYPE = re.compile(r"Expected an? <class '(\w+)'>. Got value: (.*)")
UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\w+)")
UNKNOWN_NAME = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
UNKNOWN_OPTION = re.compile(
    r"(?:does not accept option '|Option '|unrecognized arguments: (?:\S+ )*?--?)([\w.]+)"
)
OF_PYTHON = re.compile(  # words of an interpreter, not of a user
    r"object has no attribute|unhashable type|argument of type"
    r"|not (iterable|subscriptable|supported between)"
)
NOISE = re.compile(  # lines that say nothing to a user
    r"""^(-\ )?(Expected\ a\ <class\ 'NoneType'>|Does\ not\ validate|Subtypes:|Errors:|Given\ value
    |Problem\ with\ given|Parser\ key|Subclass\ types|Not\ a\ valid\ subclass|a\ class\ path
    |a\ dict\ with|Expected\ a\ path|Expected\ a\ <class\ 'list'>)""",
    re.X,
)
