"""What an aggregation function is (DESIGN 3.6, 3.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.states import State
from featurestore.types import DataType

Finished = tuple[Array, Array]
"""Values, and whether each is there (False is null)."""


OVERFLOW = object()
"""Stands for a value that its type cannot hold; it is null, and counted."""


@dataclass(frozen=True)
class Parameters:
    """What one use of a function is told: the column's type (None: rows), and its parameters."""

    type: DataType | None
    k: int | None = None
    half_life: int | None = None
    percentile: float | None = None

    @property
    def column(self) -> DataType:
        """The column's type, where the function needs a column."""
        assert self.type is not None
        return self.type

    @property
    def count(self) -> int:
        """`k`, where the function has one."""
        assert self.k is not None
        return self.k


@dataclass(frozen=True)
class Example:
    """Values a minute apart, the newest `ago` seconds before t, and what the function gives of them."""

    values: tuple[Any, ...]
    gives: Any
    type: str = "int64"
    parameters: dict[str, Any] = field(default_factory=dict)
    ago: int = 0


@dataclass(frozen=True)
class Function:
    """One aggregation function.

    `doc` defines it, `empty` says what it gives of no values. `takes` is what it needs of a column, in words
    for the error; `accepts` tests it. `states` gives the states that it finishes from, `result` its type,
    `finish` the value and validity per state; it is told the instants that are asked about. `bound` says how
    far a value may lie from the exact one, `source` where a formula is from. `parameters` are those that it
    has, with their defaults (None: required). `overflows` tells which finished values are null because their
    type cannot hold them (None: it always can).
    """

    name: str
    doc: str
    empty: str
    takes: str
    accepts: Callable[[DataType], bool]
    states: Callable[[Parameters], tuple[State, ...]]
    result: Callable[[Parameters], DataType]
    finish: Callable[[list[Partial], Parameters, Array], Finished]
    example: Example
    bound: str = ""
    source: str = ""
    needs_column: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)
    overflows: Callable[[Finished], Array] | None = None


def is_scalar(kind: DataType) -> bool:
    """Tell whether values of a type are one thing each, and have an order."""
    return kind.is_number or kind.name in ("bool", "string", "binary", "date", "timestamp")


def is_number(kind: DataType) -> bool:
    """Tell whether arithmetic applies."""
    return kind.is_number


def is_anything(_: DataType) -> bool:
    """Tell that any column will do."""
    return True


NUMBERS = "a number"
SCALARS = "a column of single values"
ANYTHING = "any column"
EMPTY_NULL = "null"
EMPTY_ZERO = "0"


def optional(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    """Return the values of states that hold one or none: (whether there is one, the value)."""
    return parts[0][1], parts[0][0]
