"""Functions of where values stand: in the order of the rows, or in their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from featurestore.aggregates import collected, states
from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.carriers import carrier, whole_numbers
from featurestore.aggregates.function import (
    ANYTHING,
    EMPTY_NULL,
    OVERFLOW,
    SCALARS,
    Example,
    Finished,
    Function,
    Parameters,
    is_anything,
    is_scalar,
    optional,
)
from featurestore.aggregates.library.numbers import total_type
from featurestore.aggregates.states import State
from featurestore.types import INT64, DataType

_K = {"k": None}
_STEPS = {"k": 1}
_MICROSECONDS = 1_000_000


def _listed(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    column = parts[0][0]
    return column, np.fromiter((len(item) > 0 for item in column), bool, len(column))


def _listed_type(told: Parameters) -> DataType:
    return DataType("list", item=told.column)


def _edge(last: bool) -> Callable[[Parameters], tuple[State, ...]]:
    return lambda told: (states.Edge(carrier(told.column), last),)


def _newest(told: Parameters) -> tuple[State, ...]:
    return (collected.LastK(told.count + 1),)


def _lag(parts: list[Partial], told: Parameters, _: Array) -> Finished:
    items = [item[0] if len(item) > told.count else None for item in parts[0][0]]
    return object_array(items), np.fromiter((item is not None for item in items), bool, len(items))


def _diff(parts: list[Partial], told: Parameters, _: Array) -> Finished:
    minus = _minus(told.column)
    items = [minus(item[-1], item[0]) if len(item) > told.count else None for item in parts[0][0]]
    found = (item is not None and item is not OVERFLOW for item in items)
    return object_array(items), np.fromiter(found, bool, len(items))


def _overflows(finished: Finished) -> Array:
    return np.fromiter((value is OVERFLOW for value in finished[0]), bool, len(finished[0]))


def _minus(kind: DataType) -> Callable[[Any, Any], Any]:
    """Return the difference of a type's carried values, OVERFLOW where its type cannot hold it."""
    if kind.is_float:
        return lambda a, b: a - b + 0.0
    if kind.name == "timestamp":
        return lambda a, b: (a - b) / _MICROSECONDS
    if kind.name == "decimal":
        return _minus_decimal
    return _minus_whole


def _minus_whole(a: int, b: int) -> Any:
    return a - b if -(2**63) <= a - b < 2**63 else OVERFLOW


def _minus_decimal(a: Any, b: Any) -> Any:
    if isinstance(a, bytes):
        a, b = whole_numbers(object_array([a, b]))
    return a - b if abs(a - b) < 10**38 else OVERFLOW


def _difference_type(told: Parameters) -> DataType:
    return INT64 if told.column.name == "date" else total_type(told.column)


def _is_distance(kind: DataType) -> bool:
    return kind.is_number or kind.name in ("date", "timestamp")


FUNCTIONS = (
    Function(
        name="first",
        doc="The oldest non-null value in the order of the rows.",
        empty=EMPTY_NULL,
        takes=ANYTHING,
        accepts=is_anything,
        states=_edge(False),
        result=lambda told: told.column,
        finish=optional,
        example=Example((2, 6, 10), 2),
    ),
    Function(
        name="last",
        doc="The newest non-null value in the order of the rows.",
        empty=EMPTY_NULL,
        takes=ANYTHING,
        accepts=is_anything,
        states=_edge(True),
        result=lambda told: told.column,
        finish=optional,
        example=Example((2, 6, 10), 10),
    ),
    Function(
        name="first_k",
        doc="The oldest `k` non-null values as a list, oldest first; fewer where there are fewer.",
        empty=EMPTY_NULL,
        takes=ANYTHING,
        accepts=is_anything,
        states=lambda told: (collected.FirstK(told.count),),
        result=_listed_type,
        finish=_listed,
        example=Example((2, 6, 10), [2, 6], parameters={"k": 2}),
        parameters=_K,
    ),
    Function(
        name="last_k",
        doc="The newest `k` non-null values as a list, oldest first; fewer where there are fewer.",
        empty=EMPTY_NULL,
        takes=ANYTHING,
        accepts=is_anything,
        states=lambda told: (collected.LastK(told.count),),
        result=_listed_type,
        finish=_listed,
        example=Example((2, 6, 10), [6, 10], parameters={"k": 2}),
        parameters=_K,
    ),
    Function(
        name="top_k",
        doc=(
            "The `k` greatest non-null values as a list, in descending order; equal ones each count, and NaN"
            " is the greatest."
        ),
        empty=EMPTY_NULL,
        takes=SCALARS,
        accepts=is_scalar,
        states=lambda told: (collected.ExtremeK(told.count, True),),
        result=_listed_type,
        finish=_listed,
        example=Example((6, 2, 6), [6, 6], parameters={"k": 2}),
        parameters=_K,
    ),
    Function(
        name="bottom_k",
        doc=(
            "The `k` least non-null values as a list, in ascending order; equal ones each count, and NaN"
            " is the greatest."
        ),
        empty=EMPTY_NULL,
        takes=SCALARS,
        accepts=is_scalar,
        states=lambda told: (collected.ExtremeK(told.count, False),),
        result=_listed_type,
        finish=_listed,
        example=Example((6, 2, 6), [2, 6], parameters={"k": 2}),
        parameters=_K,
    ),
    Function(
        name="lag",
        doc="The non-null value `k` (default 1) before the newest one in the order of the rows.",
        empty="null up to k values",
        takes=ANYTHING,
        accepts=is_anything,
        states=_newest,
        result=lambda told: told.column,
        finish=_lag,
        example=Example((2, 6, 10), 6),
        parameters=_STEPS,
    ),
    Function(
        name="diff",
        doc=(
            "The newest non-null value less the one `k` (default 1) before it: of integers as int64, of"
            " decimals as decimal(38,s), each null where it does not fit; of dates in days, of timestamps in"
            " seconds as float64."
        ),
        empty="null up to k values",
        takes="a number, date or timestamp",
        accepts=_is_distance,
        states=_newest,
        result=_difference_type,
        finish=_diff,
        example=Example((2, 6, 16), 10),
        parameters=_STEPS,
        overflows=_overflows,
    ),
)
