"""Aggregates of one entity whose rows are one leaf: what most reads ask for, by Python's own sums.

The general path (`view`) makes arrays of a few dozen rows, and each of some 300 numpy calls costs as much as
a sum over all of them. Here are only the functions and types that most features have; whatever is not as
plain as that, by its plan or by its values, is left to the general path. Both give the same values to the
bit.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import PackedLeaf

_FUNCTIONS = ("count", "sum", "avg", "min", "max", "first", "last")
_SPLITTER = 134217729.0  # 2**27 + 1
_LARGEST = 2.0**900  # up to which no step of a division in double-double overflows
_LEAST = 2.0**-900

Total = Callable[[Sequence[Any]], tuple[Any, float]]
"""Gives the sum of some values, at least one: floats' as the nearest float and what that leaves."""

Finish = Callable[[Sequence[Any], Any, float], Any]
"""Gives an output from some values, at least one, and their total, where it is asked for."""


class _Unusual(Exception):
    """Values that the general path has rules for."""


@dataclass(frozen=True)
class _Part:
    """A column in a window, and what to make of it: outputs by their places. `column` None: rows as such."""

    column: int | None
    window: int
    total: Total | None
    finishes: list[tuple[int, Finish]]
    empty: list[tuple[int, Any]]


class FewRows:
    """Reads the outputs at `places` of a layout from leaves."""

    def __init__(self, layout: OnlineLayout, places: Sequence[int]) -> None:
        self._size = len(places)
        self._windows = layout.aggregates.windows
        self._formats = ["d" if dtype == "<f8" else "q" for dtype in layout.parts.dtypes()]
        self._recent: tuple[int | None, list[tuple[int, int]]] = (None, [])
        outputs = [layout.aggregates.outputs[place] for place in places]
        made: dict[tuple[int | None, int], list[tuple[int, str]]] = {}
        for place, output in enumerate(outputs):
            column = layout.parts.uses[layout.aggregates.uses[output.uses[0]].input][0]
            made.setdefault((column, output.window), []).append((place, output.function.name))
        self._parts = [self._part(column, window, asked) for (column, window), asked in made.items()]

    def _part(self, column: int | None, window: int, asked: list[tuple[int, str]]) -> _Part:
        is_float = column is not None and self._formats[column] == "d"
        sums = _SUMS if not is_float else _SUMS | {"min", "max"}  # which tells that no value is NaN
        total = None
        if any(name in sums for _, name in asked):
            total = _float_total if is_float else _whole_total
        finishes = _FLOATS if is_float else _WHOLES
        nothing = {"count": 0, "sum": 0.0 if is_float else 0}
        return _Part(
            column,
            window,
            total,
            [(place, finishes[name]) for place, name in asked],
            [(place, nothing.get(name)) for place, name in asked],
        )

    @staticmethod
    def of(layout: OnlineLayout, places: Sequence[int]) -> FewRows | None:
        """Return what reads these outputs; None where one of them is not as plain as that."""
        if layout.has_deleted or layout.plan.has_lifetime:
            return None
        for place in places:
            output = layout.aggregates.outputs[place]
            [number] = {layout.aggregates.uses[use].input for use in output.uses}
            _, condition, category = layout.parts.uses[number]
            kind = output.told.type
            is_number = kind is None or kind.is_float or (kind.is_integer and kind.name != "uint64")
            if condition is not None or category is not None or not is_number:
                return None
            if output.function.name not in _FUNCTIONS:
                return None
        return FewRows(layout, places)

    def read(self, leaf: PackedLeaf, t: int) -> list[Any] | None:
        """Return the outputs' values at `t` from a usual leaf; None: take the general path."""
        size = len(leaf.times) >> 3
        times = struct.unpack(f"<{size}q", leaf.times)
        at, bounds = self._recent  # most rows of a request ask for one instant
        if at != t:
            bounds = [window.bounds(t) for window in self._windows]
            self._recent = t, bounds
        ranges = [(bisect_left(times, low), bisect_left(times, high)) for low, high in bounds]
        columns: dict[int, Sequence[Any]] = {}
        outputs = [None] * self._size
        try:
            for part in self._parts:
                start, end = ranges[part.window]
                if start >= end:
                    for place, value in part.empty:
                        outputs[place] = value
                    continue
                values: Sequence[Any] = range(start, end)
                if (column := part.column) is not None:
                    if column not in columns:
                        data = leaf.columns[column][1]
                        columns[column] = struct.unpack(f"<{size}{self._formats[column]}", data)
                    values = columns[column][start:end]
                total, rest = (None, 0.0) if part.total is None else part.total(values)
                for place, finish in part.finishes:
                    outputs[place] = finish(values, total, rest)
        except _Unusual:
            return None
        return outputs


def _whole_total(values: Sequence[int]) -> tuple[int, float]:
    total = sum(values)
    if not -(2**63) <= total < 2**63:
        raise _Unusual
    return total, 0.0


def _float_total(values: Sequence[float]) -> tuple[float, float]:
    try:
        total = math.fsum(values)
    except (ValueError, OverflowError):
        raise _Unusual from None
    if not math.isfinite(total):
        raise _Unusual
    return total, math.fsum([*values, -total])


def _whole_avg(values: Sequence[int], whole: int, _: float) -> float:
    high, low = (whole >> 32) * 2.0**32, float(whole & 0xFFFFFFFF)
    total = high + low
    back = total - high
    return _divided(total, (high - (total - back)) + (low - back), float(len(values)))


def _divided(high: float, low: float, size: float) -> float:
    """Return a double-double over a whole number, step by step as `doubledouble.divide` does."""
    quotient = high / size
    if not (_LEAST < abs(quotient) < _LARGEST or high == 0.0):
        raise _Unusual
    product = quotient * size
    scaled = quotient * _SPLITTER
    a_high = scaled - (scaled - quotient)
    a_low = quotient - a_high
    scaled = size * _SPLITTER
    b_high = scaled - (scaled - size)
    b_low = size - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    rest = (((high - product) - error) + low) / size
    total = quotient + rest
    return total + (rest - (total - quotient)) + 0.0


_SUMS = {"sum", "avg"}
_WHOLES: dict[str, Finish] = {
    "count": lambda values, _, __: len(values),
    "sum": lambda _, total, __: total,
    "avg": _whole_avg,
    "min": lambda values, _, __: min(values),
    "max": lambda values, _, __: max(values),
    "first": lambda values, _, __: values[0],
    "last": lambda values, _, __: values[-1],
}
_FLOATS = _WHOLES | {
    "sum": lambda _, total, rest: total + rest + 0.0,
    "avg": lambda values, total, rest: _divided(total, rest, float(len(values))),
}
