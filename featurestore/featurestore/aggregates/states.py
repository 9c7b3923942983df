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
from featurestore.aggregates.exact import RangeSums

_SMALL = 4096  # values in all ranges together, below which Python's own exact sum is faster


class State(Protocol):
    """A kind of partial state. `name` is part of the online layout's fingerprint."""

    @property
    def name(self) -> str:
        """The kind, with its parameters."""

    def empty(self, size: int) -> Partial:
        """Return `size` states of no rows."""

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        """Return the state of each range [low, high) of rows' values."""

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        """Return the merge of each range [low, high) of states."""

    def merge(self, a: Partial, b: Partial) -> Partial:
        """Return each a merged with each b, where a's rows come before b's."""

    def encode(self, states: Partial) -> list[bytes]:
        """Return the states' columns as bytes."""

    def decode(self, columns: list[bytes]) -> Partial:
        """Return the states that `encode` wrote."""


class _Fixed:
    """States of fixed width: one numpy column per part."""

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


class Count(_Fixed):
    """How many values there are."""

    name = "count"
    dtypes = ("<i8",)

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:  # noqa: ARG002
        return (np.maximum(high - low, 0).astype(np.int64),)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return (_range_sums(states[0], low, high),)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return (a[0] + b[0],)


class IntegerSum(_Fixed):
    """The sum of integers as high * 2**32 + low, with 0 <= low < 2**32: exact for 2**31 rows."""

    name = "integer_sum"
    dtypes = ("<i8", "<i8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
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


class FloatSum(_Fixed):
    """The sum of floats in double-double; exact from rows, within 2**-104 of it through merges."""

    name = "float_sum"
    dtypes = ("<f8", "<f8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        if _is_small(low, high):
            return _small_sums(values, low, high)
        return _large_sums(values, low, high, self)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        if _is_small(low, high):
            return _small_sums(np.column_stack(states).ravel(), low * 2, high * 2)
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return doubledouble.add((a[0], a[1]), (b[0], b[1]))


class Extreme:
    """The least or the greatest value; NaN where a float among them is NaN."""

    def __init__(self, kind: str, greatest: bool) -> None:
        self.kind = kind
        self.greatest = greatest
        self.name = f"{'max' if greatest else 'min'}:{kind}"

    def empty(self, size: int) -> Partial:
        return np.zeros(size, bool), _blank(self.kind, size)

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        total = int(np.maximum(high - low, 0).sum())
        if total > 32 * (len(values) + 16 * len(low)) or (self.kind == "object" and total > _SMALL):
            return ranges.fold((np.ones(len(values), bool), values), low, high, self.merge, self.empty)
        found = low < high
        result = _blank(self.kind, len(low))
        pick = np.maximum if self.greatest else np.minimum
        if found.any():
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


class Moments(_Fixed):
    """Count, sum, sum of squares (both double-double), least and greatest: what variance needs.

    The square's rounding error is kept, so that the variance holds for means far above the deviation;
    least equal to greatest makes it 0.
    """

    name = "moments"
    dtypes = ("<i8", "<f8", "<f8", "<f8", "<f8", "<f8", "<f8")

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        square, error = doubledouble.two_product(values, values)
        if _is_small(low, high):
            squares = FloatSum().combine((square, error), low, high)
        else:
            squares = _large_sums(square, low, high, FloatSum(), error)
        sums = FloatSum().reduce(values, low, high)
        least = Extreme("f8", False).reduce(values, low, high)[1]
        greatest = Extreme("f8", True).reduce(values, low, high)[1]
        return (*Count().reduce(values, low, high), *sums, *squares, least, greatest)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        count, found = Count().combine((states[0],), low, high), states[0] > 0
        sums = FloatSum().combine(states[1:3], low, high)
        squares = FloatSum().combine(states[3:5], low, high)
        least = Extreme("f8", False).combine((found, states[5]), low, high)[1]
        greatest = Extreme("f8", True).combine((found, states[6]), low, high)[1]
        return (*count, *sums, *squares, least, greatest)

    def merge(self, a: Partial, b: Partial) -> Partial:
        sums = doubledouble.add((a[1], a[2]), (b[1], b[2]))
        squares = doubledouble.add((a[3], a[4]), (b[3], b[4]))
        has_a, has_b = a[0] > 0, b[0] > 0
        least = Extreme("f8", False).merge((has_a, a[5]), (has_b, b[5]))[1]
        greatest = Extreme("f8", True).merge((has_a, a[6]), (has_b, b[6]))[1]
        return (a[0] + b[0], *sums, *squares, least, greatest)


class _Collected:
    """States of any width, each a tuple of values in one object column."""

    def empty(self, size: int) -> Partial:
        column = np.empty(size, object)
        column[:] = [()] * size
        return (column,)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return (object_array([self.join(x, y) for x, y in zip(a[0], b[0], strict=True)]),)

    def join(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        raise NotImplementedError

    def encode(self, states: Partial) -> list[bytes]:
        return [msgspec.msgpack.encode(states[0].tolist())]

    def decode(self, columns: list[bytes]) -> Partial:
        return (object_array([tuple(item) for item in msgspec.msgpack.decode(columns[0])]),)


class Distinct(_Collected):
    """The distinct values, in the order of their first appearance; NaN is one value."""

    name = "distinct"

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        items = values.tolist()
        return (
            object_array(
                [self.join((), items[i:j]) for i, j in zip(low.tolist(), high.tolist(), strict=True)]
            ),
        )

    def join(self, a: Any, b: Any) -> tuple[Any, ...]:
        return tuple({("nan" if x != x else (x.__class__, x)): x for part in (a, b) for x in part}.values())


class LastK(_Collected):
    """The newest k values, oldest first."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.name = f"last_k:{k}"

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        starts = np.maximum(low, high - self.k)
        pairs = zip(starts.tolist(), high.tolist(), strict=True)
        return (object_array([tuple(values[i:j].tolist()) for i, j in pairs]),)

    def join(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return (a + b)[-self.k :]


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


def _is_small(low: Array, high: Array) -> bool:
    return int(np.maximum(high - low, 0).sum()) <= _SMALL


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


def _large_sums(values: Array, low: Array, high: Array, state: FloatSum, *errors: Array) -> Partial:
    """Return the sums of many values from exact prefix sums, or by the tree where those would not fit."""
    finite = np.isfinite(values)
    parts = (values, *errors)
    if not finite.all():
        parts = tuple(np.where(finite, part, 0.0) for part in parts)
    sums = RangeSums.build(*parts)
    high = np.maximum(low, high)
    if sums is None:
        zeros = errors[0] if errors else np.zeros(len(values))
        total = ranges.fold((parts[0], zeros), low, high, state.merge, state.empty)
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
