"""The aggregation functions: what each takes, its states, and how it finishes (DESIGN 3.6, 3.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featurestore.aggregates import doubledouble, states
from featurestore.aggregates.arrays import Array, Partial
from featurestore.aggregates.states import State
from featurestore.errors import SpecError, did_you_mean
from featurestore.rows.vectors import unpack
from featurestore.types import FLOAT64, INT64, DataType

Finished = tuple[Array, Array]
"""Values, and whether each is there (False is null)."""


@dataclass(frozen=True)
class Function:
    """One aggregation function.

    `takes` is what it needs of a column, in words for the error; `accepts` tests it. `states` gives the
    states it finishes from, `result` its type, `finish` the value and validity per state.
    """

    name: str
    doc: str
    takes: str
    accepts: Callable[[DataType], bool]
    states: Callable[[DataType | None, int | None], tuple[State, ...]]
    result: Callable[[DataType], DataType]
    finish: Callable[[list[Partial]], Finished]
    needs_column: bool = True
    needs_k: bool = False


def carrier(kind: DataType) -> str:
    """Return the numpy type that carries a column's values through the algebra.

    Integers, booleans, dates (days) and timestamps (microseconds) are whole numbers, uint64 unsigned;
    floats are float64; all else are Python objects.
    """
    if kind.is_float:
        return "<f8"
    if kind.name == "uint64":
        return "<u8"
    if kind.is_integer or kind.name in ("bool", "date", "timestamp"):
        return "<i8"
    return "object"


def plain_values(values: Array, found: Array, kind: DataType) -> list[object]:
    """Return finished values as Python values of their type, None where not found."""
    items: list[object] = values.tolist()
    if kind.name == "bool":
        items = [bool(item) for item in items]
    elif kind.name == "list" and kind.item is not None and kind.item.name == "bool":
        items = [[bool(x) for x in item] for item in values]
    elif kind.name == "list":
        items = [list(item) for item in values]
    if kind.name == "vector":
        items = [item if item is None else unpack(item, kind) for item in values]
    elif kind.item is not None and kind.item.name == "vector":
        items = [[unpack(x, kind.item) for x in item] for item in values]
    if found.all():
        return items
    return [item if there else None for item, there in zip(items, found.tolist(), strict=True)]


def _sum_states(kind: DataType | None, _: int | None) -> tuple[State, ...]:
    assert kind is not None
    return (states.FloatSum(),) if kind.is_float else (states.IntegerSum(),)


def _finish_sum(parts: list[Partial]) -> Finished:
    (first, second) = parts[0]
    if first.dtype.kind == "f":
        return first + second + 0.0, np.ones(len(first), bool)
    fits = (first >= -(2**31)) & (first < 2**31)
    return (np.where(fits, first, 0) << 32) + second, fits


def _finish_avg(parts: list[Partial]) -> Finished:
    (first, second), (count,) = parts
    found = count > 0
    if first.dtype.kind == "f":
        total = (first, second)
    else:
        total = doubledouble.two_sum(first * 2.0**32, second.astype(np.float64))
    high, low = doubledouble.divide(total, np.where(found, count, 1).astype(np.float64))
    return high + low + 0.0, found


def _variance(parts: list[Partial]) -> Finished:
    count, sum_high, sum_low, square_high, square_low, least, greatest = parts[0]
    found = count > 1
    size = np.where(found, count, 2).astype(np.float64)
    total = (sum_high, sum_low)
    mean_part = doubledouble.divide(doubledouble.multiply(total, total), size)
    high, low = doubledouble.add((square_high, square_low), (-mean_part[0], -mean_part[1]))
    high, low = doubledouble.divide((high, low), size - 1)
    value = np.maximum(high + low, 0.0)
    with np.errstate(invalid="ignore"):
        value = np.where(np.isfinite(least) & np.isfinite(greatest), value, np.nan)
    return np.where(least == greatest, np.where(np.isfinite(least), 0.0, np.nan), value), found


def _deviation(parts: list[Partial]) -> Finished:
    value, found = _variance(parts)
    return np.sqrt(value), found


def _optional(parts: list[Partial]) -> Finished:
    return parts[0][1], parts[0][0]


def _distinct_count(parts: list[Partial]) -> Finished:
    column = parts[0][0]
    return np.fromiter((len(item) for item in column), np.int64, len(column)), np.ones(len(column), bool)


def _listed(parts: list[Partial]) -> Finished:
    column = parts[0][0]
    return column, np.fromiter((len(item) > 0 for item in column), bool, len(column))


def _is_scalar(kind: DataType) -> bool:
    return kind.name not in ("list", "decimal", "vector")


def _is_kept(kind: DataType) -> bool:
    return _is_scalar(kind) or kind.name == "vector"


def _moments(_: DataType | None, __: int | None) -> tuple[State, ...]:
    return (states.Moments(),)


def _edge(last: bool) -> Callable[[DataType | None, int | None], tuple[State, ...]]:
    return lambda kind, _: (states.Edge(carrier(kind), last),) if kind else ()


def _extreme(greatest: bool) -> Callable[[DataType | None, int | None], tuple[State, ...]]:
    return lambda kind, _: (states.Extreme(carrier(kind), greatest),) if kind else ()


def _is_number(kind: DataType) -> bool:
    return kind.is_integer or kind.is_float


def _is_whole_or_float(kind: DataType) -> DataType:
    return INT64 if kind.is_integer else FLOAT64


FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function(
            "count",
            "How many non-null values, or rows where no column is named; 0 when empty.",
            "any column, or none",
            lambda _: True,
            lambda _, __: (states.Count(),),
            lambda _: INT64,
            lambda parts: (parts[0][0], np.ones(len(parts[0][0]), bool)),
            needs_column=False,
        ),
        Function(
            "sum",
            "The sum; 0 when empty. Integers sum to int64, null past it; floats are rounded once.",
            "an integer or a float",
            _is_number,
            _sum_states,
            _is_whole_or_float,
            _finish_sum,
        ),
        Function(
            "avg",
            "The mean as float64; null when empty.",
            "an integer or a float",
            _is_number,
            lambda kind, k: (*_sum_states(kind, k), states.Count()),
            lambda _: FLOAT64,
            _finish_avg,
        ),
        Function(
            "min",
            "The least value; null when empty, NaN where one is NaN. Text compares by code points.",
            "a column that is no list or decimal",
            _is_scalar,
            _extreme(False),
            lambda kind: kind,
            _optional,
        ),
        Function(
            "max",
            "The greatest value; null when empty, NaN where one is NaN.",
            "a column that is no list or decimal",
            _is_scalar,
            _extreme(True),
            lambda kind: kind,
            _optional,
        ),
        Function(
            "var",
            "The variance of the sample; null below two values, 0 where all are equal.",
            "an integer or a float",
            _is_number,
            _moments,
            lambda _: FLOAT64,
            _variance,
        ),
        Function(
            "std",
            "The square root of `var`.",
            "an integer or a float",
            _is_number,
            _moments,
            lambda _: FLOAT64,
            _deviation,
        ),
        Function(
            "first",
            "The oldest non-null value in the order of the rows; null when empty.",
            "a column that is no list or decimal",
            _is_kept,
            _edge(False),
            lambda kind: kind,
            _optional,
        ),
        Function(
            "last",
            "The newest non-null value in the order of the rows; null when empty.",
            "a column that is no list or decimal",
            _is_kept,
            _edge(True),
            lambda kind: kind,
            _optional,
        ),
        Function(
            "count_distinct",
            "How many distinct non-null values; NaN is one value; 0 when empty. Exact.",
            "a column that is no list or decimal",
            _is_scalar,
            lambda _, __: (states.Distinct(),),
            lambda _: INT64,
            _distinct_count,
        ),
        Function(
            "last_k",
            "The newest k non-null values as a list, oldest first; null when empty.",
            "a column that is no list or decimal",
            _is_kept,
            lambda _, k: (states.LastK(k or 1),),
            lambda kind: DataType("list", item=kind),
            _listed,
            needs_k=True,
        ),
    )
}


def function_names() -> list[str]:
    """Return the names of all aggregation functions."""
    return list(FUNCTIONS)


def result_type(function: str, kind: DataType | None, k: int | None = None) -> DataType:
    """Return the type of `function` over a column of type `kind` (None: over rows).

    Raises SpecError where there is no such function or it does not take the column.
    """
    found = FUNCTIONS.get(function)
    if found is None:
        raise SpecError(f"'{function}' is no aggregation function.", hint=did_you_mean(function, FUNCTIONS))
    if kind is None and found.needs_column:
        raise SpecError(f"{function} needs a column.", hint="Write column: beside functions:.")
    if kind is not None and not found.accepts(kind):
        raise SpecError(f"{function} needs {found.takes}, found {kind}.")
    if found.needs_k and k is None:
        raise SpecError(f"{function} needs k:, how many values it keeps.")
    return found.result(kind or INT64)
