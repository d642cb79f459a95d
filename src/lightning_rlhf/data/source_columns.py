"""Look at the values of a column as a whole, in Arrow, before any row is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from lightning_rlhf.data.token_table import column

MANY = 10_000  # different values of a column that are looked at


def is_filled(value: Any) -> bool:
    """Tell whether a cell holds anything."""
    return not (value is None or (isinstance(value, str | list | dict | tuple) and len(value) == 0))


@dataclass(frozen=True)
class Columns:
    """The columns of a source.

    Args:
        rows: of a table, or the first block of a stream.
        names: source column -> ours.
    """

    rows: Dataset | Sequence[Mapping[str, Any]]
    names: Mapping[str, str]

    def counts(self, name: str) -> Counter[Any]:
        """Count the values of a column, without None; of more than ``MANY`` only some.

        The least and the greatest number are among them. Lists and structs are not counted.
        """
        values = self._values(name)
        if values is None or pa.types.is_nested(values.type) or pa.types.is_null(values.type):
            return Counter()
        if isinstance(values.type, pa.BaseExtensionType):  # values of several types, as JSON
            values = pa.chunked_array([chunk.storage for chunk in values.chunks])
            texts = self._counted(values)
            return Counter({_hashable(json.loads(text)): n for text, n in texts.items()})
        return self._counted(values)

    @staticmethod
    def _counted(values: pa.ChunkedArray) -> Counter[Any]:
        found = values.drop_null().value_counts()
        kept = found.slice(0, MANY)
        counts = dict(zip(kept.field(0).to_pylist(), kept.field(1).to_pylist(), strict=True))
        if len(found) > MANY and pa.types.is_primitive(values.type):
            counts.update(dict.fromkeys(pc.min_max(found.field(0)).as_py().values(), 1))
        return Counter({value: n for value, n in counts.items() if value == value})

    def any_filled(self, name: str) -> bool:
        """Tell whether any cell of a column holds something."""
        values = self._values(name)
        if values is None or values.null_count == len(values):
            return False
        return any(is_filled(value) for chunk in values.chunks for value in chunk.to_pylist())

    def below(self, name: str, other: str | float) -> int:
        """Count the rows whose number in a column is below a bound, or below another column's."""
        values = self._values(name)
        bound = self._values(other) if isinstance(other, str) else pa.scalar(float(other))
        if values is None or bound is None or not (_numeric(values) and _numeric(bound)):
            return 0
        return pc.sum(pc.less(values, bound)).as_py() or 0

    def classes(self, name: str) -> list[str] | None:
        """Return the names of the classes of a column, if it has them."""
        if not isinstance(self.rows, Dataset):
            return None
        kind = self.rows.features.get(self._source(name))
        return list(kind.names) if isinstance(kind, ClassLabel) else None

    def _source(self, name: str) -> str:
        return next((old for old, new in self.names.items() if new == name), name)

    def _values(self, name: str) -> pa.ChunkedArray | None:
        """Return a column in Arrow; None if there is none."""
        source = self._source(name)
        if isinstance(self.rows, Dataset):
            return column(self.rows, source) if source in self.rows.column_names else None
        values = [row.get(source) for row in self.rows]
        try:
            return pa.chunked_array([pa.array(values)])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            texts = [None if v is None else json.dumps(v, default=str) for v in values]
            return pa.chunked_array([pa.array(texts, pa.json_())])


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _numeric(values: Any) -> bool:
    kind = values.type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
