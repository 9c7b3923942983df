"""The nodes of a typed expression: literals, columns, calls. Frozen, hashable, picklable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.types import DataType

NULL = DataType("null")
"""The type of a bare `null` until its surroundings say which type it has. No column has it."""


class RowRejected(FeatureStoreError):
    """A row that has no value: integer overflow, or a Python step that failed. `reason` says which."""

    code = "rejected"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RowRejected], tuple[str]]:
        return RowRejected, (self.reason,)


@dataclass(frozen=True)
class Expression:
    """A scalar expression of one row. `type` is what it gives, null aside."""

    type: DataType

    @cached_property
    def columns(self) -> frozenset[str]:
        """The names of the columns that it reads."""
        return frozenset()

    @cached_property
    def sql(self) -> str:
        """Canonical text: `parse` reads it back to an equal expression over the same schema."""
        raise NotImplementedError

    @cached_property
    def depth(self) -> int:
        """How many calls lie within one another."""
        return 0


@dataclass(frozen=True)
class Literal(Expression):
    """A constant, as a row value: timestamps in microseconds, dates in days. None is null."""

    value: Any

    @cached_property
    def sql(self) -> str:
        """Return the constant as SQL, with its type where the text alone would not tell it."""
        if self.value is None:
            return "null" if self.type == NULL else f"cast(null as {self.type})"
        if self.type.name == "string":
            return quote(self.value)
        if self.type.name == "bool":
            return "true" if self.value else "false"
        if self.type.name == "int64" or (self.type.name == "float64" and math.isfinite(self.value)):
            return repr(self.value)
        from featurestore.expressions.runtime import to_text

        return f"cast({quote(to_text(self.value, self.type))} as {self.type})"


@dataclass(frozen=True)
class Column(Expression):
    """A column of the row."""

    name: str

    @cached_property
    def columns(self) -> frozenset[str]:
        """The name."""
        return frozenset((self.name,))

    @cached_property
    def sql(self) -> str:
        """Return the name in double quotes, `"set"."feature"` where it is qualified."""
        return ".".join(f'"{part}"' for part in self.name.split("."))


@dataclass(frozen=True)
class Call(Expression):
    """A function or an operator of the table (`featurestore.expressions.functions`) and its arguments."""

    function: str
    arguments: tuple[Expression, ...]

    @cached_property
    def columns(self) -> frozenset[str]:
        """The columns of all arguments."""
        return frozenset().union(*(argument.columns for argument in self.arguments))

    @cached_property
    def depth(self) -> int:
        """One more than the deepest argument."""
        return 1 + max((argument.depth for argument in self.arguments), default=0)

    @cached_property
    def sql(self) -> str:
        """Return the call as SQL, operators in parentheses."""
        from featurestore.expressions.functions import FUNCTIONS

        return FUNCTIONS[self.function].show(self)


def quote(text: str) -> str:
    """Return `text` as a SQL string."""
    return "'" + text.replace("'", "''") + "'"
