"""Functions of how often values occur."""

from __future__ import annotations

import numpy as np

from featurestore.aggregates import collected, sketches, states
from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.function import (
    ANYTHING,
    EMPTY_NULL,
    EMPTY_ZERO,
    SCALARS,
    Example,
    Finished,
    Function,
    Parameters,
    is_anything,
    is_scalar,
)
from featurestore.types import INT64, DataType


def _everywhere(values: Array) -> Finished:
    return values, np.ones(len(values), bool)


def _count(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    return _everywhere(parts[0][0])


def _sizes(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    column = parts[0][0]
    return _everywhere(np.fromiter((len(item) for item in column), np.int64, len(column)))


def _estimates(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    column = parts[0][0]
    return _everywhere(np.fromiter(map(sketches.estimate, column), np.int64, len(column)))


def _sets(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    column = object_array([tuple(collected.ascending(item)) for item in parts[0][0]])
    return column, np.fromiter((len(item) > 0 for item in column), bool, len(column))


def _most_frequent(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    items = []
    for values, counts in parts[0][0]:
        items.append(values[counts.index(max(counts))] if values else None)
    return object_array(items), np.fromiter((item is not None for item in items), bool, len(items))


def _histogram(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    items = [tuple(zip(*item, strict=True)) for item in parts[0][0]]
    return object_array(items), np.fromiter((len(item) > 0 for item in items), bool, len(items))


def _is_discrete(kind: DataType) -> bool:
    return is_scalar(kind) and not kind.is_float


FUNCTIONS = (
    Function(
        name="count",
        doc="How many non-null values there are, or rows where no column is named.",
        empty=EMPTY_ZERO,
        takes=f"{ANYTHING}, or none",
        accepts=is_anything,
        states=lambda _: (states.Count(),),
        result=lambda _: INT64,
        finish=_count,
        example=Example((2, 6, 10), 3),
        needs_column=False,
    ),
    Function(
        name="count_distinct",
        doc="How many distinct non-null values there are; NaN is one value. It keeps each of them.",
        empty=EMPTY_ZERO,
        takes=SCALARS,
        accepts=is_scalar,
        states=lambda _: (collected.Distinct(),),
        result=lambda _: INT64,
        finish=_sizes,
        example=Example((2, 6, 2), 2),
    ),
    Function(
        name="approx_count_distinct",
        doc=(
            "About how many distinct non-null values there are, in at most 4 KiB; NaN is one value."
            " The same for the same set of values, whatever their order."
        ),
        empty=EMPTY_ZERO,
        takes=SCALARS,
        accepts=is_scalar,
        states=lambda _: (sketches.Registers(),),
        result=lambda _: INT64,
        finish=_estimates,
        example=Example((2, 6, 2), 2),
        bound="exact up to 511; beyond, a standard error of 1.04 / sqrt(4096), which is 1.6 %",
        source=(
            "HyperLogLog, Flajolet et al. 2007, with 4,096 registers and hashes of 64 bits;"
            " the estimate is Ertl's of 2017, algorithm 6"
        ),
    ),
    Function(
        name="distinct",
        doc="The distinct non-null values as a list in ascending order; NaN is one value, and the last.",
        empty=EMPTY_NULL,
        takes=SCALARS,
        accepts=is_scalar,
        states=lambda _: (collected.Distinct(),),
        result=lambda told: DataType("list", item=told.column),
        finish=_sets,
        example=Example((6, 2, 6), [2, 6]),
    ),
    Function(
        name="mode",
        doc="The most frequent non-null value; of several, the least. NaN is one value, and the greatest.",
        empty=EMPTY_NULL,
        takes=SCALARS,
        accepts=is_scalar,
        states=lambda _: (collected.Counts(),),
        result=lambda told: told.column,
        finish=_most_frequent,
        example=Example((6, 2, 6, 2, 9), 2),
    ),
    Function(
        name="histogram",
        doc="How often each non-null value occurs: a map of values, in ascending order, to counts.",
        empty=EMPTY_NULL,
        takes="a column of single values that are no floats",
        accepts=_is_discrete,
        states=lambda _: (collected.Counts(),),
        result=lambda told: DataType("map", key=told.column, item=INT64),
        finish=_histogram,
        example=Example(("b", "a", "b"), {"a": 1, "b": 2}, "string"),
    ),
)
