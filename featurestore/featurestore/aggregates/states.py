"""Partial states of aggregations: made from rows, merged in order, stored in tiles.

Each kind says how to reduce ranges of rows (`reduce`), ranges of states (`combine`) and pairs of states
(`merge`), all vectorised over ranges: a batch join passes millions, a served vector a handful. Merging
is associative, and rows and states always come in the order of the rows, so the result depends on the
set of rows alone. Values arrive without nulls: int64, uint64, float64 or objects (see `carrier`).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec
import numpy as np

from featurestore.aggregates import doubledouble, ranges
from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.carriers import limbs
from featurestore.aggregates.exact import RangeSums

_SMALL = 4096  # values in all ranges together, below which Python's own exact sum is faster


class State(Protocol):
    """A kind of partial state. `name` is part of the online layout's fingerprint.

    A `timed` one is made of values and their rows' event times: `reduce` takes these too.
    """

    @property
    def name(self) -> str:
        """The kind, with its parameters."""

    @property
    def timed(self) -> bool:
        """Whether `reduce` takes event times."""

    def empty(self, size: int) -> Partial:
        """Return `size` states of no rows."""

    def reduce(self, values: Array, low: Array, high: Array, /) -> Partial:
        """Return the state of each range [low, high) of rows' values; timed: (values, low, high, times)."""

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        """Return the merge of each range [low, high) of states."""

    def merge(self, a: Partial, b: Partial) -> Partial:
        """Return each a merged with each b, where a's rows come before b's."""

    def encode(self, states: Partial) -> list[bytes]:
        """Return the states' columns as bytes."""

    def decode(self, columns: list[bytes]) -> Partial:
        """Return the states that `encode` wrote."""


class Fixed:
    """States of fixed width: one numpy column per part."""

    timed = False
    dtypes: tuple[Any, ...]

    def encode(self, states: Partial) -> list[bytes]:
        return [
            np.ascontiguousarray(column, dtype).tobytes()
            for column, dtype in zip(states, self.dtypes, strict=True)
        ]

    def decode(self, columns: list[bytes]) -> Partial:
        return tuple(np.frombuffer(column, dtype) for column, dtype in zip(columns, self.dtypes, strict=True))

    def empty(self, size: int) -> Partial:
        return tuple(np.zeros(size, dtype) for dtype in self.dtypes)


class Count(Fixed):
    """How many values there are."""

    name = "count"
    dtypes = ("<i8",)

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:  # noqa: ARG002
        return (np.maximum(high - low, 0).astype(np.int64),)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return (_range_sums(states[0], low, high),)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return (a[0] + b[0],)


class IntegerSum(Fixed):
    """The sum of integers as high * 2**32 + low, with 0 <= low < 2**32: exact for 2**31 rows."""

    name = "integer_sum"
    dtypes = ("<i8", "<i8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        largest = max(int(values.max(initial=0)), -int(values.min(initial=0)))
        if largest * len(values) < 2**63:  # then no sum overflows
            return self._carry(np.zeros(len(low), np.int64), _range_sums(values.astype(np.int64), low, high))
        upper = (values >> values.dtype.type(32)).astype(np.int64)
        lower = (values & values.dtype.type(0xFFFFFFFF)).astype(np.int64)
        return self.combine((upper, lower), low, high)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return self._carry(_range_sums(states[0], low, high), _range_sums(states[1], low, high))

    def merge(self, a: Partial, b: Partial) -> Partial:
        return self._carry(a[0] + b[0], a[1] + b[1])

    @staticmethod
    def _carry(upper: Array, lower: Array) -> Partial:
        return upper + (lower >> 32), lower & 0xFFFFFFFF


class WideSum(Fixed):
    """The sum of decimals of more than 18 digits in limbs of 32 bits: exact for 2**31 rows."""

    name = "wide_sum"
    dtypes = ("<i8",) * 6

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        if not len(values):
            return self.empty(len(low))
        parts = limbs(values)
        return self.combine(
            (*parts, np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)), low, high
        )

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return self._carry([_range_sums(column, low, high) for column in states])

    def merge(self, a: Partial, b: Partial) -> Partial:
        return self._carry([x + y for x, y in zip(a, b, strict=True)])

    @staticmethod
    def _carry(columns: list[Array]) -> Partial:
        for number in range(len(columns) - 1):
            columns[number + 1] = columns[number + 1] + (columns[number] >> 32)
            columns[number] = columns[number] & 0xFFFFFFFF
        return tuple(columns)


class FloatSum(Fixed):
    """The sum of floats in double-double; exact from rows, within 2**-104 of it through merges."""

    name = "float_sum"
    dtypes = ("<f8", "<f8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        return exact_sums(low, high, values)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        if is_small(low, high):
            return _small_sums(np.column_stack(states).ravel(), low * 2, high * 2)
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return doubledouble.add((a[0], a[1]), (b[0], b[1]))


class Extreme:
    """The least or the greatest value; NaN where a float among them is NaN."""

    timed = False

    def __init__(self, kind: str, greatest: bool) -> None:
        self.kind = kind
        self.greatest = greatest
        self.name = f"{'max' if greatest else 'min'}:{kind}"

    def empty(self, size: int) -> Partial:
        return np.zeros(size, bool), _blank(self.kind, size)

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        total = int(np.maximum(high - low, 0).sum())
        is_long = ranges.overlap(total, len(values), len(low))
        if self.kind == "object" and (is_long or total > _SMALL):
            return ranges.fold((np.ones(len(values), bool), values), low, high, self.merge, self.empty)
        found = low < high
        result = _blank(self.kind, len(low))
        pick = np.maximum if self.greatest else np.minimum
        if is_long:
            result[found] = ranges.doubled(values, low[found], high[found], pick)
        elif found.any():
            edges = np.column_stack([low[found], high[found]]).ravel()
            result[found] = pick.reduceat(np.append(values, values[-1:]), edges)[::2]
        return found, result

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return _over_found(self, states, low, high)

    def merge(self, a: Partial, b: Partial) -> Partial:
        if self.kind == "object":
            later = np.fromiter(
                (
                    has_b and (not has_a or ((y > x) if self.greatest else (y < x)))
                    for has_a, has_b, x, y in zip(a[0], b[0], a[1], b[1], strict=True)
                ),
                bool,
                len(a[0]),
            )
            return a[0] | b[0], np.where(later, b[1], a[1])
        picked = (np.maximum if self.greatest else np.minimum)(a[1], b[1])
        return a[0] | b[0], np.where(a[0] & b[0], picked, np.where(b[0], b[1], a[1]))

    def encode(self, states: Partial) -> list[bytes]:
        return _encode_optional(self.kind, states)

    def decode(self, columns: list[bytes]) -> Partial:
        return _decode_optional(self.kind, columns)


class Edge:
    """The first or the last value in the order of the rows."""

    timed = False

    def __init__(self, kind: str, last: bool) -> None:
        self.kind = kind
        self.last = last
        self.name = f"{'last' if last else 'first'}:{kind}"

    def empty(self, size: int) -> Partial:
        return np.zeros(size, bool), _blank(self.kind, size)

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        found = low < high
        result = _blank(self.kind, len(low))
        result[found] = values[(high[found] - 1) if self.last else low[found]]
        return found, result

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return _over_found(self, states, low, high)

    def merge(self, a: Partial, b: Partial) -> Partial:
        use_b = b[0] if self.last else b[0] & ~a[0]
        return a[0] | b[0], np.where(use_b, b[1], a[1])

    def encode(self, states: Partial) -> list[bytes]:
        return _encode_optional(self.kind, states)

    def decode(self, columns: list[bytes]) -> Partial:
        return _decode_optional(self.kind, columns)


def _blank(kind: str, size: int) -> Array:
    return np.empty(size, object) if kind == "object" else np.zeros(size, kind)


def _encode_optional(kind: str, states: Partial) -> list[bytes]:
    found = np.packbits(states[0]).tobytes()
    if kind == "object":
        return [found, msgspec.msgpack.encode(states[1].tolist())]
    return [found, np.ascontiguousarray(states[1], kind).tobytes()]


def _decode_optional(kind: str, columns: list[bytes]) -> Partial:
    if kind == "object":
        values = object_array(msgspec.msgpack.decode(columns[1]))
    else:
        values = np.frombuffer(columns[1], kind)
    found = np.unpackbits(np.frombuffer(columns[0], np.uint8), count=len(values)).astype(bool)
    return found, values


def is_small(low: Array, high: Array) -> bool:
    return int((high - low).sum()) <= _SMALL  # a guess: no window ends before it begins


def _over_found(state: Extreme | Edge, states: Partial, low: Array, high: Array) -> Partial:
    """Return the merge of ranges of states that hold a value each, or none: what their values reduce to."""
    found, values = states
    if not found.all():
        prefix = np.zeros(len(found) + 1, np.int64)
        np.cumsum(found, out=prefix[1:])
        values, low, high = values[found], prefix[low], prefix[np.maximum(low, high)]
    return state.reduce(values, low, high)


def _range_sums(values: Array, low: Array, high: Array) -> Array:
    prefix = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=prefix[1:])
    return prefix[np.maximum(low, high)] - prefix[low]


def exact_sums(low: Array, high: Array, *parts: Array) -> Partial:
    """Return the sums over ranges of rows, each row the sum of its parts, in double-double, rounded once."""
    if is_small(low, high):
        width = len(parts)
        return _small_sums(
            parts[0] if width == 1 else np.column_stack(parts).ravel(), low * width, high * width
        )
    return _large_sums(low, high, *parts)


def _small_sums(values: Array, low: Array, high: Array) -> Partial:
    """Return the sums of few values by Python's exact `math.fsum`, with what its rounding leaves."""
    items = values.tolist()
    totals, rests = [], []
    for i, j in zip(low.tolist(), high.tolist(), strict=True):
        part = items[i:j]
        try:
            total = math.fsum(part)
        except (ValueError, OverflowError):  # infinities of both signs; an intermediate overflow
            with np.errstate(invalid="ignore", over="ignore"):
                total = float(np.sum(np.array(part)))
        totals.append(total)
        rests.append(math.fsum([*part, -total]) if math.isfinite(total) else 0.0)
    return np.array(totals, np.float64), np.array(rests, np.float64)


def _large_sums(low: Array, high: Array, *parts: Array) -> Partial:
    """Return the sums of many values from exact prefix sums, or by the tree where those would not fit."""
    values = parts[0]
    finite = np.isfinite(values)
    if not finite.all():
        parts = tuple(np.where(finite, part, 0.0) for part in parts)
    sums = RangeSums.build(*parts)
    high = np.maximum(low, high)
    if sums is None:
        state, rows = FloatSum(), (parts[0], np.zeros(len(values)))
        for part in parts[1:]:
            rows = doubledouble.add(rows, (part, np.zeros(len(values))))
        total = ranges.fold(rows, low, high, state.merge, state.empty)
    else:
        total = sums.total(low, high)
    if finite.all():
        return total
    nan = _range_sums(np.isnan(values), low, high) > 0
    up = _range_sums(np.isposinf(values), low, high) > 0
    down = _range_sums(np.isneginf(values), low, high) > 0
    special = np.where(nan | (up & down), np.nan, np.where(up, np.inf, -np.inf))
    odd = nan | up | down
    return np.where(odd, special, total[0]), np.where(odd, 0.0, total[1])
