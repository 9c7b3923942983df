"""Aggregates of one entity by Python's own sums: what most reads ask for.

The general path (`view`) makes arrays of a few dozen rows or tiles, and each of some 300 numpy calls costs as
much as a sum over all of them. Here are only the functions and types that most features have; whatever is not
as plain as that, by its plan or by its values, is left to the general path. Both give the same values to the
bit: what a window covers of each node becomes one state, rounded as `states` rounds it, and then these do.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any

from featurestore.aggregates.states import Count, Edge, Extreme, FloatSum, IntegerSum, State
from featurestore.online.layout import OnlineLayout
from featurestore.online.packed import PackedDirectory, PackedLeaf
from featurestore.online.view import EntityView

_FUNCTIONS = ("count", "sum", "avg", "min", "max", "first", "last")
_SPLITTER = 134217729.0  # 2**27 + 1
_LARGEST = 2.0**900  # up to which no step of a division in double-double overflows
_LEAST = 2.0**-900

Column = Sequence[Any]

Finish = Callable[[Any, Any], Any]
"""Gives an output from its states, the first and the last."""

Bounds = Sequence[tuple[int, int]]
"""The event times [low, high) of each window."""


class _Unusual(Exception):
    """Values that the general path has rules for."""


@dataclass(frozen=True)
class _Kind:
    """How a state is made of rows' values, of tiles, and of such states; of each at least one.

    Tiles are columns, and numbers from one up to another. `codes` are those of the columns; `is_optional`:
    before these come bits that tell which tiles have a state.
    """

    rows: Callable[[Column], Any]
    tiles: Callable[[list[Column], int, int], Any]
    merge: Callable[[list[Any]], Any]
    codes: str
    is_optional: bool = False

    @staticmethod
    def of(state: State, *, is_checked: bool) -> _Kind:
        """Return how states of a kind are made. `is_checked`: their column's sums tell that none is NaN."""
        if isinstance(state, Count):
            return _Kind(len, lambda columns, i, j: sum(columns[0][i:j]), sum, "q")
        if isinstance(state, IntegerSum):
            return _Kind(sum, _tiles_sum, sum, "qq")
        if isinstance(state, FloatSum):
            return _Kind(_float_sum, _tiles_float_sum, _sum_of_sums, "dd")
        assert isinstance(state, Extreme | Edge)
        code = "d" if state.kind == "<f8" else "q"
        pick: Callable[[Column], Any]
        if isinstance(state, Edge):
            pick = itemgetter(-1 if state.last else 0)
        else:
            pick = max if state.greatest else min
            if code == "d" and not is_checked:
                pick = _finite(pick)
        return _Kind(pick, lambda columns, i, j: pick(columns[0][i:j]), pick, code, is_optional=True)

    def columns(self, states: list[list[bytes]]) -> list[Column]:
        """Return the columns of directories' states, end to end."""
        columns = list(zip(*states, strict=True))
        if self.is_optional:
            for bits, data in zip(*columns, strict=True):
                size = len(data) >> 3
                if int.from_bytes(bits, "big") != ((1 << size) - 1) << (-size & 7):
                    raise _Unusual
            del columns[0]
        return [_unpacked(code, column) for code, column in zip(self.codes, columns, strict=True)]


class FewRows:
    """Reads the outputs at `places` of a layout."""

    def __init__(self, layout: OnlineLayout, places: Sequence[int]) -> None:
        uses = layout.aggregates.uses
        outputs = [layout.aggregates.outputs[place] for place in places]
        windows = sorted({output.window for output in outputs})
        self._windows = [layout.aggregates.windows[window] for window in windows]
        self._recent: tuple[int | None, Bounds] = (None, ())
        self._codes = ["d" if dtype == "<f8" else "q" for dtype in layout.parts.dtypes()]
        used = sorted({use for output in outputs for use in output.uses})
        summed = {uses[use].input for use in used if isinstance(uses[use].state, FloatSum)}
        columns: dict[int | None, list[tuple[int, _Kind]]] = {}
        for use in used:
            kind = _Kind.of(uses[use].state, is_checked=uses[use].input in summed)
            columns.setdefault(layout.parts.uses[uses[use].input][0], []).append((use, kind))
        self._columns = list(columns.items())
        self._of_rows = [(column, [kind.rows for _, kind in asked]) for column, asked in self._columns]
        number = {use: i for i, use in enumerate(use for asked in columns.values() for use, _ in asked)}
        self._empty: list[Any] = [None] * len(places)
        self._plain: list[list[tuple[int, int]]] = [[] for _ in windows]
        self._finished: list[list[tuple[int, Finish, int, int]]] = [[] for _ in windows]
        for place, output in enumerate(outputs):
            name, window = output.function.name, windows.index(output.window)
            first, last = number[output.uses[0]], number[output.uses[-1]]
            is_float = isinstance(uses[output.uses[0]].state, FloatSum)
            if name in ("count", "sum"):
                self._empty[place] = 0.0 if is_float else 0
            if (finish := _FINISHES.get((name, is_float))) is None:
                self._plain[window].append((place, first))
            else:
                self._finished[window].append((place, finish, first, last))

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

    def read(self, rows: PackedLeaf | EntityView, t: int) -> list[Any] | None:
        """Return the outputs' values at `t` from rows that all count; None: take the general path."""
        at, bounds = self._recent  # most rows of a request ask for one instant
        if at != t:
            bounds = [window.bounds(t) for window in self._windows]
            self._recent = t, bounds
        values = self._empty[:]
        try:
            found = (
                self._of_leaf(rows, bounds) if isinstance(rows, PackedLeaf) else self._of_view(rows, bounds)
            )
            for window, states in found:
                for place, number in self._plain[window]:
                    values[place] = states[number]
                for place, finish, first, last in self._finished[window]:
                    values[place] = finish(states[first], states[last])
        except _Unusual:
            return None
        return values

    def _of_leaf(self, leaf: PackedLeaf, bounds: Bounds) -> Iterator[tuple[int, list[Any]]]:
        """Yield the windows that have rows, each with its states."""
        times = leaf.instants
        columns = [(self._values(leaf, column), kinds) for column, kinds in self._of_rows]
        for window, (low, high) in enumerate(bounds):
            i, j = bisect_left(times, low), bisect_left(times, high)
            if i < j:
                states = []
                for values, kinds in columns:
                    part = values[i:j]
                    states += [of_rows(part) for of_rows in kinds]
                yield window, states

    def _of_view(self, view: EntityView, bounds: Bounds) -> Iterator[tuple[int, list[Any]]]:
        """Yield the windows that have rows, each with its states."""
        found = [view.segments(low, high) for low, high in bounds]
        distinct = dict.fromkeys(chain.from_iterable(found))  # windows that end together share their ends
        rows = [(node, i, j) for node, i, j in distinct if isinstance(node, PackedLeaf)]
        tiles = [(node, i, j) for node, i, j in distinct if isinstance(node, PackedDirectory)]
        leaves = {leaf for leaf, _, _ in rows}
        directories = dict.fromkeys(directory for directory, _, _ in tiles)
        sizes = [len(directory.slices) for directory in directories]
        starts = dict(zip(directories, accumulate(sizes, initial=0), strict=False))
        spans = [(starts[directory] + i, starts[directory] + j) for directory, i, j in tiles]
        merges = []
        for column, asked in self._columns:
            values = {leaf: self._values(leaf, column) for leaf in leaves}
            parts = [values[leaf][i:j] for leaf, i, j in rows]
            for use, kind in asked:
                columns = kind.columns([d.states[use] for d in directories]) if directories else []
                each = [*map(kind.rows, parts), *(kind.tiles(columns, i, j) for i, j in spans)]
                merges.append((kind.merge, each))
        numbers = {segment: number for number, segment in enumerate([*rows, *tiles])}
        for window, segments in enumerate(found):
            if len(segments) > 1:
                order = [numbers[segment] for segment in segments]
                yield window, [merge([each[number] for number in order]) for merge, each in merges]
            elif segments:
                yield window, [each[numbers[segments[0]]] for _, each in merges]

    def _values(self, leaf: PackedLeaf, column: int | None) -> Column:
        """Return a column of a leaf, or its rows as such."""
        size = len(leaf.times) >> 3
        if column is None:
            return range(size)
        bits, data = leaf.columns[column]
        if bits is not None:
            raise _Unusual
        return struct.unpack(f"<{size}{self._codes[column]}", data)


def _unpacked(code: str, columns: Sequence[bytes]) -> Column:
    data = b"".join(columns)
    return struct.unpack(f"<{len(data) >> 3}{code}", data)


def _finite(pick: Callable[[Column], Any]) -> Callable[[Column], Any]:
    """Return what picks one of floats: where a NaN is among them, there is no least and no greatest."""

    def picked(values: Column) -> float:
        if not math.isfinite(sum(values)):
            raise _Unusual
        found: float = pick(values)
        return found

    return picked


def _float_sum(values: Column) -> tuple[float, float]:
    """Return the sum as the nearest float, and what that leaves."""
    try:
        total = math.fsum(values)
    except (ValueError, OverflowError):
        raise _Unusual from None
    if not math.isfinite(total):
        raise _Unusual
    return total, math.fsum([*values, -total])


def _sum_of_sums(sums: Iterable[tuple[float, float]]) -> tuple[float, float]:
    return _float_sum([*chain.from_iterable(sums)])


def _tiles_float_sum(columns: list[Column], i: int, j: int) -> tuple[float, float]:
    return _sum_of_sums(zip(columns[0][i:j], columns[1][i:j], strict=True))


def _tiles_sum(columns: list[Column], i: int, j: int) -> int:
    return (sum(columns[0][i:j]) << 32) + sum(columns[1][i:j])


def _finish_sum(total: int, _: int) -> int:
    if not -(2**63) <= total < 2**63:
        raise _Unusual
    return total


def _finish_avg(whole: int, count: int) -> float | None:
    high, low = (whole >> 32) * 2.0**32, float(whole & 0xFFFFFFFF)
    total = high + low
    back = total - high
    return _finish_float_avg((total, (high - (total - back)) + (low - back)), count)


def _finish_float_avg(whole: tuple[float, float], count: int) -> float | None:
    """Return a double-double over a count, step by step as `doubledouble.divide` does; None over 0."""
    if not count:
        return None
    high, low = whole
    size = float(count)
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


_FINISHES: dict[tuple[str, bool], Finish] = {
    ("sum", False): _finish_sum,
    ("sum", True): lambda total, _: total[0] + total[1] + 0.0,
    ("avg", False): _finish_avg,
    ("avg", True): _finish_float_avg,
}
"""By function, and whether of floats; other outputs are their states."""
