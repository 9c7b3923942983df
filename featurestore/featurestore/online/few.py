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
from typing import Any

from featurestore.aggregates.layout import Output
from featurestore.online import nodes
from featurestore.online.layout import OnlineLayout
from featurestore.plans import seen_until

_FUNCTIONS = ("count", "sum", "avg", "min", "max", "first", "last")
_SPLITTER = 134217729.0  # 2**27 + 1
_LARGEST = 2.0**900  # up to which no step of a division in double-double overflows
_LEAST = 2.0**-900

Finish = Callable[["_Part"], Any]


class _Unusual(Exception):
    """Values that the general path has rules for."""


class FewRows:
    """Reads the outputs at `places` of a layout from leaves."""

    def __init__(self, layout: OnlineLayout, places: Sequence[int]) -> None:
        self._windows = layout.aggregates.windows
        self._left_closed = layout.plan.left_closed
        self._reach = layout.plan.reach
        outputs = [layout.aggregates.outputs[place] for place in places]
        parts: dict[tuple[int | None, int], int] = {}
        self._finishes: list[tuple[int, Finish]] = []
        for output in outputs:
            column = layout.parts.uses[layout.aggregates.uses[output.uses[0]].input][0]
            part = parts.setdefault((column, output.window), len(parts))
            self._finishes.append((part, _finish(output)))
        self._parts = list(parts)
        self._formats = ["d" if dtype == "<f8" else "q" for dtype in layout.parts.dtypes()]

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

    def read(self, root: bytes, t: int) -> tuple[list[Any], tuple[int, bytes] | None] | None:
        """Return the outputs' values at `t` and the newest row's features; None: take the general path."""
        leaf = nodes.packed_leaf(root)
        if leaf is None or (leaf.floor is not None and t - self._reach < leaf.floor):
            return None
        size = len(leaf.times) >> 3
        if not size:
            return None
        times = struct.unpack(f"<{size}q", leaf.times)
        newest = None if leaf.newest is None else (times[-1], leaf.newest)
        if times[-1] >= seen_until(t, self._left_closed):
            return None
        ranges = [
            (bisect_left(times, low), bisect_left(times, high))
            for low, high in [window.bounds(t) for window in self._windows]
        ]
        columns: dict[int, Sequence[Any]] = {}
        parts = []
        for column, window in self._parts:
            start, end = ranges[window]
            if column is None:
                parts.append(_Part(range(start, end), False))
                continue
            values = columns.get(column)
            form = self._formats[column]
            if values is None:
                bits, data = leaf.columns[column]
                if bits is not None:
                    return None
                values = columns[column] = struct.unpack(f"<{size}{form}", data)
            parts.append(_Part(values[start:end], form == "d"))
        try:
            return [finish(parts[part]) for part, finish in self._finishes], newest
        except _Unusual:
            return None


class _Part:
    """The values of a column in a window, and their sum, as soon as it is asked for."""

    __slots__ = ("is_float", "rest", "total", "values")

    def __init__(self, values: Sequence[Any], is_float: bool) -> None:
        self.values = values
        self.is_float = is_float
        self.total: Any = None
        self.rest = 0.0

    def add(self) -> None:
        """Sum the values: floats as the nearest float and what that leaves; raise _Unusual otherwise."""
        if self.total is not None:
            return
        if not self.is_float:
            self.total = sum(self.values)
            if not -(2**63) <= self.total < 2**63:
                raise _Unusual
            return
        try:
            total = math.fsum(self.values)
        except (ValueError, OverflowError):
            raise _Unusual from None
        if not math.isfinite(total):
            raise _Unusual
        self.total = total
        self.rest = math.fsum([*self.values, -total])


def _finish(output: Output) -> Finish:
    return _FINISHES[output.function.name]


def _sum(part: _Part) -> Any:
    part.add()
    return part.total + part.rest + 0.0 if part.is_float else part.total


def _avg(part: _Part) -> float | None:
    size = float(len(part.values))
    if not size:
        return None
    part.add()
    if part.is_float:
        return _divided(part.total, part.rest, size)
    high, low = (part.total >> 32) * 2.0**32, float(part.total & 0xFFFFFFFF)
    total = high + low
    back = total - high
    return _divided(total, (high - (total - back)) + (low - back), size)


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


def _extreme(pick: Callable[..., Any]) -> Finish:
    def finish(part: _Part) -> Any:
        if part.is_float:
            part.add()  # no value is NaN
        return pick(part.values, default=None)

    return finish


_FINISHES: dict[str, Finish] = {
    "count": lambda part: len(part.values),
    "sum": _sum,
    "avg": _avg,
    "min": _extreme(min),
    "max": _extreme(max),
    "first": lambda part: part.values[0] if part.values else None,
    "last": lambda part: part.values[-1] if part.values else None,
}
