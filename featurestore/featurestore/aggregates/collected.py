"""States of any width: values, kept or counted, each state one object.

Numbers, text and bytes are compared as they are carried; NaN is one value, and the greatest, as in
expressions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from featurestore.aggregates import ranges
from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.states import is_small

Items = tuple[Any, ...]

_NAN = float("nan")
_MERGES = 16  # of states, about as many as a range costs in a tree


class Collected:
    """States of any width, each a tuple in one object column."""

    timed = False
    blank: Any = ()

    def empty(self, size: int) -> Partial:
        column = np.empty(size, object)
        column[:] = [self.blank] * size
        return (column,)

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        items = values.tolist()
        total = int(np.maximum(high - low, 0).sum())
        overlap = not is_small(low, high) and ranges.overlap(total, len(values), len(low))
        if overlap and total > _MERGES * self.width(items) * len(low):
            rows = object_array([self.collect([item]) for item in items])
            return ranges.fold((rows,), low, high, self.merge, self.empty)
        pairs = zip(low.tolist(), high.tolist(), strict=True)
        return (object_array([self.collect(items[i:j]) for i, j in pairs]),)

    def combine(self, states: Partial, low: Array, high: Array) -> Partial:
        return ranges.fold(states, low, high, self.merge, self.empty)

    def merge(self, a: Partial, b: Partial) -> Partial:
        return (object_array([self.join(x, y) for x, y in zip(a[0], b[0], strict=True)]),)

    def width(self, items: Sequence[Any]) -> int:
        """Return how much a state over these values holds, at most."""
        return len(set(items))

    def collect(self, items: Sequence[Any]) -> Any:
        """Return the state of some values in the order of their rows."""
        raise NotImplementedError

    def join(self, a: Any, b: Any) -> Any:
        """Return the state of a's rows followed by b's."""
        raise NotImplementedError

    def encode(self, states: Partial) -> list[bytes]:
        return [msgspec.msgpack.encode(states[0].tolist())]

    def decode(self, columns: list[bytes]) -> Partial:
        return (object_array([tuple(item) for item in msgspec.msgpack.decode(columns[0])]),)


class Distinct(Collected):
    """The distinct values, in the order of their first appearance."""

    name = "distinct"

    def collect(self, items: Sequence[Any]) -> Items:
        return self.join((), items)

    def join(self, a: Any, b: Any) -> Items:
        return tuple({("nan" if x != x else (x.__class__, x)): x for part in (a, b) for x in part}.values())


class LastK(Collected):
    """The newest k values, oldest first."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.name = f"last_k:{k}"

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        return _kept(values, np.maximum(low, high - self.k), high)

    def join(self, a: Items, b: Items) -> Items:
        return (a + b)[-self.k :]


class FirstK(Collected):
    """The oldest k values, oldest first."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.name = f"first_k:{k}"

    def reduce(self, values: Array, low: Array, high: Array) -> Partial:
        return _kept(values, low, np.minimum(high, low + self.k))

    def join(self, a: Items, b: Items) -> Items:
        return (a + b)[: self.k]


def _kept(values: Array, low: Array, high: Array) -> Partial:
    """Return the values of each range [low, high), a state each."""
    pairs = zip(low.tolist(), high.tolist(), strict=True)
    return (object_array([tuple(values[i:j].tolist()) for i, j in pairs]),)


class ExtremeK(Collected):
    """The k greatest values, descending, or the k least, ascending; equal values each count."""

    def __init__(self, k: int, greatest: bool) -> None:
        self.k = k
        self.greatest = greatest
        self.name = f"{'top_k' if greatest else 'bottom_k'}:{k}"

    def width(self, items: Sequence[Any]) -> int:  # noqa: ARG002
        return self.k

    def collect(self, items: Sequence[Any]) -> Items:
        return tuple(ascending(items, self.greatest)[: self.k])

    def join(self, a: Items, b: Items) -> Items:
        return self.collect(a + b) if a and b else a or b


class Counts(Collected):
    """How often each value occurs: (values in ascending order, their counts)."""

    name = "counts"
    blank = ((), ())

    def collect(self, items: Sequence[Any]) -> Items:
        return _counted(Counter(items))

    def join(self, a: Any, b: Any) -> Items:
        if not a[0] or not b[0]:
            return a if a[0] else b  # type: ignore[no-any-return]
        counts = dict(zip(*a, strict=True))
        for value, count in zip(*b, strict=True):
            counts[value] = counts.get(value, 0) + count
        return _counted(counts)

    def decode(self, columns: list[bytes]) -> Partial:
        decoded = msgspec.msgpack.decode(columns[0])
        return (object_array([(tuple(values), tuple(counts)) for values, counts in decoded]),)


def _counted(counts: dict[Any, int]) -> Items:
    """Return values in ascending order and their counts; all NaN are one."""
    if missing := [value for value in counts if value != value]:
        many = sum(counts.pop(value) for value in missing)
        return (*sorted(counts), _NAN), (*map(counts.__getitem__, sorted(counts)), many)
    order = sorted(counts)
    return tuple(order), tuple(map(counts.__getitem__, order))


def ascending(items: Sequence[Any], descending: bool = False) -> list[Any]:
    """Return values in ascending order, NaN last, or all the other way round."""
    missing = [item for item in items if item != item]
    if not missing:
        return sorted(items, reverse=descending)
    rest = sorted((item for item in items if item == item), reverse=descending)
    return missing + rest if descending else rest + missing
