"""Rows into the roots of many entities at once, where these are leaves: what most writes are.

`tree.Update` decodes, sorts and encodes one entity; for a handful of rows that costs more than the rows.
Here only the tail of a leaf, from its first new row's time on, is decoded; the tails and new rows of all
entities are sorted together, and what comes before a tail is copied as the bytes that it is. The result is
the same to the byte (tests/test_online_leaves.py). Where values are numbers, a compiled kernel does it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from featurestore.aggregates.arrays import Array, object_array
from featurestore.aggregates.inputs import RowParts
from featurestore.online import nodes, tree
from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import Leaf
from featurestore.plans import BEGINNING
from featurestore.rows.compiling import has_compiler

Kernel: TypeAlias = Callable[..., tuple[list[bytes], list[int]]]
Piece: TypeAlias = Any
"""Part of a column: bytes, or a list where values are objects."""


_MANY = 64  # entities from which on the compiled kernel pays, which is imported for them


class Root(NamedTuple):
    """A root that was written: its bytes, and an instant that no row of the entity is after."""

    data: bytes
    newest: int


@dataclass
class _Head:
    """A leaf as stored, and how many of its rows come before the first new one."""

    columns: list[Piece]
    flags: list[bytes | None]
    hidden: int
    plain: list[bytes | None]
    floor: int | None
    size: int
    kept: int


def grow(
    layout: OnlineLayout,
    roots: Sequence[bytes | None],
    rows: Leaf,
    starts: Array,
    floors: tuple[int, int] | None,
) -> list[Root | None]:
    """Return each entity's root with its new rows; None where `tree.Update` has to do it.

    Those are directories, what becomes one, and sets whose rows may be deleted. Entity i's rows are
    `starts[i]` to `starts[i + 1]`, one at least, in the order of rows.
    """
    if layout.has_deleted:
        return [None] * len(roots)
    if len(roots) >= _MANY and has_compiler() and "object" not in layout.parts.dtypes() and kernel().done():
        replaces = layout.plan.source.on_duplicate == "replace"
        made = kernel().result()(
            roots, rows, starts, floors, has_plain=layout.has_plain, replaces=replaces, limit=tree.leaf_rows()
        )
        return [Root(*each) if each[0] else None for each in zip(*made, strict=True)]
    shape = _Shape(layout)
    first, sizes = rows.times[starts[:-1]].tolist(), np.diff(starts).tolist()
    heads = [shape.head(*each) for each in zip(roots, first, sizes, strict=True)]
    rows, starts = shape.sorted(heads, rows, starts)
    buffers = shape.buffers(rows)
    ends = starts.tolist()
    return [
        None if head is None else shape.root(buffers, head, low, high, floors)
        for head, low, high in zip(heads, ends[:-1], ends[1:], strict=True)
    ]


@cache
def kernel() -> Future[Kernel]:
    """Return the compiled kernel to come: some seconds, of which the disk spares a machine all but the first.

    Rows do not wait for it.
    """
    threads = ThreadPoolExecutor(1, "compile")
    coming = threads.submit(_load_kernel)
    threads.shutdown(wait=False)
    return coming


def _load_kernel() -> Kernel:
    from featurestore.online.leaf_kernel import ready

    return ready()


@dataclass
class _Buffers:
    """All entities' new rows as what leaves are made of. `whole` tells of each flag where all are set."""

    columns: list[Piece]
    flags: list[Array]
    whole: list[bool]
    plain: list[bytes | None]


class _Shape:
    """A set's leaf, taken apart: columns that are copied, flags (bits), and row-level features."""

    def __init__(self, layout: OnlineLayout) -> None:
        dtypes = layout.parts.dtypes()
        self._layout = layout
        self._fixed = 3 + layout.has_order + layout.has_ids
        self._dtypes = ["<i8"] * self._fixed + dtypes + ["<i2"] * len(layout.parts.categories)
        self._widths = [1 if kind == "object" else np.dtype(kind).itemsize for kind in self._dtypes]
        self._values = len(dtypes)
        self._conditions = len(layout.parts.conditions)

    def head(self, root: bytes | None, first: int, count: int) -> _Head | None:
        """Return a stored root, of which rows before `first` stay as they are; None where it is no leaf."""
        if root is None:
            columns: list[Piece] = [[] if kind == "object" else b"" for kind in self._dtypes]
            flags: list[bytes | None] = [None] * self._values + [b""] * self._conditions
            return _Head(columns, flags, 0, [], None, 0, 0) if tree.is_leaf(count) else None
        parts = nodes.leaf_parts(root, self._layout)
        if parts is None:
            return None
        floor, times, ingest, hashes, order, ids, values, conditions, categories, (hidden, plain), _ = parts
        size = len(times) // 8
        if not tree.is_leaf(size + count):
            return None
        columns = [times, ingest, hashes]
        if order is not None:
            columns.append(order)
        if ids is not None:
            columns.append(ids)
        columns += [data for _, data in values]
        columns += categories
        flags = [bits for bits, _ in values] + conditions
        kept = bisect_left(memoryview(times).cast("q"), first)
        return _Head(columns, flags, hidden, plain, floor, size, kept)

    def sorted(self, heads: Sequence[_Head | None], rows: Leaf, starts: Array) -> tuple[Leaf, Array]:
        """Return the tails and the new rows of all entities, in order, each once, and where each starts."""
        entity = np.repeat(np.arange(len(heads)), np.diff(starts))
        late = [(i, head) for i, head in enumerate(heads) if head is not None and head.kept < head.size]
        if late:
            tails = np.repeat([i for i, _ in late], [head.size - head.kept for _, head in late])
            entity = np.concatenate([tails, entity])
            rows = nodes.join_leaves([self._tails([head for _, head in late]), rows])
            order = tree.row_order(rows, entity)
        else:
            order = np.arange(len(entity))
        if rows.ids is not None:
            replaces = self._layout.plan.source.on_duplicate == "replace"
            order = order[
                tree.distinct(rows.times[order], rows.ids[order], None, replaces, entity=entity[order])
            ]
        if late or len(order) < len(entity):
            rows, entity = rows.take(order), entity[order]
            starts = np.searchsorted(entity, np.arange(len(heads) + 1))
        return rows, starts

    def _tails(self, heads: Sequence[_Head]) -> Leaf:
        """Return the rows of stored leaves that new ones may come before, leaf by leaf."""
        columns = []
        for number, (kind, width) in enumerate(zip(self._dtypes, self._widths, strict=True)):
            pieces = [head.columns[number][width * head.kept :] for head in heads]
            columns.append(
                object_array(list(chain.from_iterable(pieces)))
                if kind == "object"
                else np.frombuffer(b"".join(pieces), kind)
            )
        flags = [
            np.concatenate([_bits(head.flags[number], head.size)[head.kept :] for head in heads])
            for number in range(self._values + self._conditions)
        ]
        plain: list[bytes | None] = []
        if self._layout.has_plain:
            for head in heads:
                plain += [None] * (head.hidden - head.kept) + head.plain[max(0, head.kept - head.hidden) :]
        each = iter(columns)
        fixed = [next(each) for _ in range(3)]
        ordered = next(each) if self._layout.has_order else None
        ids = next(each) if self._layout.has_ids else None
        values = [(next(each), flags[number]) for number in range(self._values)]
        parts = RowParts(tuple(values), tuple(flags[self._values :]), tuple(each))
        return Leaf(fixed[0], fixed[1], fixed[2], ordered, ids, parts, plain)

    def buffers(self, rows: Leaf) -> _Buffers:
        """Return the rows as what leaves are made of."""
        arrays = [rows.times, rows.ingest, rows.hashes]
        arrays += [array for array in (rows.order, rows.ids) if array is not None]
        arrays += [values for values, _ in rows.parts.columns]
        arrays += rows.parts.categories
        columns = [
            array.tolist() if kind == "object" else array.astype(kind, copy=False).tobytes()
            for kind, array in zip(self._dtypes, arrays, strict=True)
        ]
        flags = [*(valid for _, valid in rows.parts.columns), *rows.parts.conditions]
        return _Buffers(columns, flags, [bool(flag.all()) for flag in flags], rows.plain)

    def root(
        self, rows: _Buffers, head: _Head, low: int, high: int, floors: tuple[int, int] | None
    ) -> Root | None:
        """Return an entity's root: its stored rows and those from `low` to `high`, without what is old."""
        kept = head.kept
        stamps = head.columns[0][: 8 * kept] + rows.columns[0][8 * low : 8 * high]
        times = memoryview(stamps).cast("q")
        hidden, plain = min(head.hidden, kept), head.plain[: max(0, kept - head.hidden)]
        if self._layout.has_plain:
            plain += rows.plain[low:high]
        cut, floor = 0, head.floor
        if floors is not None:
            is_trimmed = _trim(times, hidden, plain, floors[1])
            found = _cut(times, hidden, plain, *floors)
            if found is None:
                return None
            cut = found
            if cut or is_trimmed:
                floor = max(floors[0], head.floor or floors[0])
        plain = plain[max(0, cut - hidden) :]
        hidden = max(0, hidden - cut)
        gone = nodes.leading_nulls(plain)
        old, new = min(cut, kept), low + max(0, cut - kept)
        columns = [stamps[8 * cut :]]
        for stored, width, fresh in zip(head.columns[1:], self._widths[1:], rows.columns[1:], strict=True):
            columns.append(stored[width * old : width * kept] + fresh[width * new : width * high])
        flags: list[bytes | None] = []
        for number, (bits, fresh) in enumerate(zip(head.flags, rows.flags, strict=True)):
            has_none = number < self._values
            if has_none and bits is None and rows.whole[number]:
                flags.append(None)
                continue
            both = np.concatenate([_bits(bits, head.size)[old:kept], fresh[new:high]])
            flags.append(None if has_none and both.all() else np.packbits(both).tobytes())
        each = iter(columns[3:])
        data = nodes.leaf_bytes(
            floor,
            columns[0],
            columns[1],
            columns[2],
            next(each) if self._layout.has_order else None,
            next(each) if self._layout.has_ids else None,
            [[bits, next(each)] for bits in flags[: self._values]],
            flags[self._values :],
            list(each),
            [hidden + gone, plain[gone:]],
            None,
        )
        return Root(data, times[-1] if cut < len(times) else BEGINNING)


def _trim(times: Sequence[int], hidden: int, plain: list[bytes | None], plain_floor: int) -> bool:
    """Forget features that no instant of the history can see, in place; tell whether there were any.

    `plain` is of the rows after the `hidden` first. See `tree.Update._trim`.
    """
    last = _telling(times, hidden, plain, plain_floor)
    is_trimmed = False
    for i in range(bisect_left(times, times[hidden + last]) - hidden if last > 0 else 0):
        is_trimmed |= plain[i] is not None
        plain[i] = None
    return is_trimmed


def _cut(
    times: Sequence[int], hidden: int, plain: Sequence[bytes | None], floor: int, plain_floor: int
) -> int | None:
    """Return how many of the first rows go; None where those are not all. See `tree.Update._prune`."""
    old = bisect_left(times, floor)
    last = _telling(times, hidden, plain, plain_floor) if old else -1
    if last < 0 or times[hidden + last] >= floor:
        return old
    same = times[hidden + last]
    return bisect_left(times, same) if bisect_right(times, same) == old else None


def _telling(times: Sequence[int], hidden: int, plain: Sequence[bytes | None], plain_floor: int) -> int:
    """Return the place in `plain` of the newest features that are as old as the floor; -1: there are none."""
    last = min(bisect_right(times, plain_floor) - hidden, len(plain)) - 1
    while last >= 0 and plain[last] is None:
        last -= 1
    return max(last, -1)


def _bits(data: bytes | None, size: int) -> Array:
    """Return flags as they are stored: None is all of them."""
    return np.ones(size, bool) if data is None else nodes.bits(data, size)
