"""What entities' online state says at an instant: newest row-level features and aggregates.

All entities of a request are evaluated together: their windows become ranges over one set of rows and
one set of tiles, and the algebra runs once per kind of state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.aggregates.arrays import Partial, put
from featurestore.aggregates.layout import AllFinished, Values
from featurestore.errors import HistoryError, OperatorError
from featurestore.instants import format_instant
from featurestore.online import nodes
from featurestore.online.layout import ROOT, OnlineLayout, node_name
from featurestore.online.nodes import Directory, Leaf, Node
from featurestore.plans import Window, seen_until

Segment = tuple[Node, int, int]
"""Rows of a leaf, or tiles of a directory, from one number up to another."""


class EntityView:
    """One entity's fields as read for instant `t`, and a row to add, if its id is not there yet."""

    def __init__(
        self,
        layout: OnlineLayout,
        fields: Mapping[bytes, bytes | None],
        t: int,
        base: Leaf | None = None,
    ) -> None:
        self.t = t
        self._layout = layout
        self._fields = fields
        self._nodes: dict[bytes, Node] = {}
        root = self._node(ROOT)
        if root is not None and root.floor is not None and t - layout.plan.reach < root.floor:
            raise HistoryError(
                f"'{layout.plan.name}' is complete from {format_instant(root.floor + layout.plan.reach)} on,"
                f" not at {format_instant(t)}.",
                hint="Ask for a later instant, or declare a longer history: on the feature set.",
            )
        self.base = base if base is not None and not self._holds(base) else None

    def newest(self) -> tuple[int, bytes] | None:
        """Return the event time and the packed features of the newest row at `t`."""
        high = seen_until(self.t, self._layout.plan.left_closed)
        root = self._node(ROOT)
        return None if root is None else self._newest(root, -1, high)[0]

    def window(self, window: Window) -> list[Segment]:
        """Return the parts of the state that a window covers, in order, without what ended before `t`."""
        low, high = window.bounds(self.t)
        found = list(self.segments(low, high))
        if not self._layout.ends:
            return found
        seen = seen_until(self.t, window.left_closed)
        if high < seen and any(_end(*segment) is not None for segment in self.segments(high, seen)):
            return []
        for number in range(len(found) - 1, -1, -1):
            start = _end(*found[number])
            if start is not None:
                node, _, end = found[number]
                return [(node, start, end), *found[number + 1 :]]
        return found

    def segments(self, low: int, high: int) -> Iterator[Segment]:
        """Yield the parts of the state that cover event times [low, high), in order."""
        root, base = self._node(ROOT), self.base
        if base is None or not low <= base.times[0] < high:
            if root is not None:
                yield from self._segments(root, -1, low, high)
            return
        if root is None:
            yield base, 0, 1
            return
        t = int(base.times[0])  # whose rows lie in one leaf, and the base row stands among them
        yield from self._segments(root, -1, low, t)
        node, start, end = next(self._segments(root, -1, t, t + 1), (base, 0, 0))
        place = start + _before(node, start, end, base)
        yield from ((node, start, place), (base, 0, 1), (node, place, end))
        yield from self._segments(root, -1, t + 1, high)

    def _node(self, name: bytes) -> Node | None:
        if name not in self._nodes:
            data = self._fields.get(name)
            if data is None:
                return None
            self._nodes[name] = nodes.decode(data, self._layout)
        return self._nodes[name]

    def _child(self, level: int, number: int) -> Node:
        child = self._node(node_name(level, number))
        if child is None:
            raise OperatorError(
                f"Online state of '{self._layout.plan.name}' lacks slice {number} of level {level}.",
                hint=f"Run: featurestore materialize {self._layout.plan.name}",
            )
        return child

    def _newest(self, node: Node, level: int, high: int) -> tuple[tuple[int, bytes] | None, bool]:
        """Return a node's newest features before `high`, and whether the entity ends before them."""
        ends = self._layout.ends
        if isinstance(node, Leaf):
            for i in range(int(np.searchsorted(node.times, high)) - 1, -1, -1):
                if (plain := node.plain[i]) is not None:
                    return (int(node.times[i]), plain), ends
                if ends and node.deleted is not None and node.deleted[i]:
                    return None, True
            return None, False
        bits = self._layout.bits[level + 1]
        last = high >> bits
        end = int(np.searchsorted(node.slices, last))
        if end < len(node.slices) and node.slices[end] == last and high != last << bits:
            found, is_ended = self._newest(self._child(level + 1, last), level + 1, high)
            if found is not None or is_ended:
                return found, is_ended
        for i in range(end - 1, -1, -1):
            if (plain := node.plain[i]) is not None:
                return (int(node.plain_times[i]), plain), ends
            if node.ended[i]:
                return None, True
        return None, False

    def _segments(self, node: Node, level: int, low: int, high: int) -> Iterator[Segment]:
        if low >= high:
            return
        if isinstance(node, Leaf):
            start, end = np.searchsorted(node.times, (low, high))
            if start < end:
                yield node, int(start), int(end)
            return
        bits = self._layout.bits[level + 1]
        first, last = low >> bits, high >> bits
        if first == last:
            yield from self._partial(node, level, first, low, high)
            return
        if low != first << bits:
            yield from self._partial(node, level, first, low, (first + 1) << bits)
            first += 1
        start, end = np.searchsorted(node.slices, (first, last))
        if start < end:
            yield node, int(start), int(end)
        if high != last << bits:
            yield from self._partial(node, level, last, last << bits, high)

    def _partial(self, node: Directory, level: int, number: int, low: int, high: int) -> Iterator[Segment]:
        place = int(np.searchsorted(node.slices, number))
        if place < len(node.slices) and node.slices[place] == number:
            yield from self._segments(self._child(level + 1, number), level + 1, low, high)

    def _holds(self, base: Leaf) -> bool:
        """Tell whether a row of base's event time and id is stored."""
        if base.ids is None:
            return False
        time = int(base.times[0])
        return any(
            isinstance(node, Leaf) and node.ids is not None and bool((node.ids[i:j] == base.ids[0]).any())
            for node, i, j in self._leaf_segments(time)
        )

    def _leaf_segments(self, time: int) -> Iterator[Segment]:
        node, level = self._node(ROOT), -1
        while isinstance(node, Directory):
            level += 1
            node = self._node(node_name(level, time >> self._layout.bits[level]))
        if node is not None:
            yield from self._segments(node, level, time, time + 1)


class NewestAtOnce:
    """Finds the newest row of an entity where the root's last row tells.

    It does in most reads: the root is a leaf, and its last row is seen and holds features.
    """

    def __init__(self, layout: OnlineLayout) -> None:
        self._ends = layout.ends
        self._left_closed = layout.plan.left_closed
        self._reach = layout.plan.reach

    def __call__(self, root: bytes | None, t: int) -> tuple[int, bytes] | None:
        """Return what `EntityView.newest` would at `t`; None where more must be seen."""
        if root is None or self._ends:
            return None
        last = nodes.last_row(root)
        if last is None:
            return None
        time, plain, floor = last
        if time >= seen_until(t, self._left_closed) or (floor is not None and t - self._reach < floor):
            return None
        return time, plain


class UsualLeaf:
    """Tells the leaves that the short ways of aggregates take (`few`, `many`).

    Such a leaf is an entity's root, has rows, and in every one a value of each column that the outputs at
    `places` are made of; no row that counts is missing. `with_newest`: its last row is the newest one, and
    holds row-level features.
    """

    def __init__(self, layout: OnlineLayout, places: Sequence[int], with_newest: bool) -> None:
        plan = layout.aggregates
        inputs = {plan.uses[use].input for place in places for use in plan.outputs[place].uses}
        columns = [layout.parts.uses[number][0] for number in inputs]
        self._columns = sorted({column for column in columns if column is not None})
        self._with_newest = with_newest
        self._left_closed = layout.plan.left_closed
        self._reach = layout.plan.reach

    def __call__(self, root: bytes | None, t: int) -> nodes.PackedLeaf | None:
        """Return the leaf; None where it is none of these at `t`."""
        leaf = None if root is None else nodes.packed_leaf(root)
        if leaf is None or not leaf.times or (leaf.floor is not None and t - self._reach < leaf.floor):
            return None
        for column in self._columns:
            if leaf.columns[column][0] is not None:
                return None
        if not self._with_newest:
            return leaf
        is_seen = leaf.last < seen_until(t, self._left_closed)
        return leaf if is_seen and leaf.newest is not None else None


def _end(node: Node, start: int, end: int) -> int | None:
    """Return where rows or tiles count from, if the entity ends among them."""
    if isinstance(node, Leaf):
        assert node.deleted is not None
        ended = np.flatnonzero(node.deleted[start:end])
        return start + int(ended[-1]) + 1 if len(ended) else None
    ended = np.flatnonzero(node.ended[start:end])
    return start + int(ended[-1]) if len(ended) else None


def _before(node: Node, start: int, end: int, base: Leaf) -> int:
    """Return how many of a leaf's rows, all of the base row's instant, come before it in order."""
    assert isinstance(node, Leaf)

    def rank(leaf: Leaf, row: int) -> tuple[int, int, int]:
        order = 0 if leaf.order is None else int(leaf.order[row])
        return order, int(leaf.ingest[row]), int(leaf.hashes[row])

    return sum(rank(node, row) < rank(base, 0) for row in range(start, end))


@dataclass
class _Pool:
    """Nodes whose columns are laid end to end, and where each begins."""

    nodes: list[Node]
    starts: dict[int, int]
    size: int = 0

    def place(self, node: Node) -> int:
        """Return where the node's first entry stands."""
        start = self.starts.get(id(node))
        if start is None:
            start = self.starts[id(node)] = self.size
            self.nodes.append(node)
            self.size += len(node) if isinstance(node, Leaf) else len(node.slices)
        return start


def aggregates(layout: OnlineLayout, views: Sequence[EntityView]) -> AllFinished:
    """Return the aggregates' values and validity, one per view, at the views' instants."""
    plan = layout.aggregates
    count = len(views)
    leaves, directories = _Pool([], {}), _Pool([], {})
    segments: list[tuple[int, bool, int, int]] = []  # (target, of a leaf, low, high), by target, in order
    for number, window in enumerate(plan.windows):
        for place, view in enumerate(views):
            for node, start, end in view.window(window):
                is_leaf = isinstance(node, Leaf)
                offset = (leaves if is_leaf else directories).place(node)
                segments.append((number * count + place, is_leaf, offset + start, offset + end))
    columns = np.array(segments, np.int64).reshape(-1, 4)
    target, low, high = columns[:, 0], columns[:, 2], columns[:, 3]
    of_leaf = columns[:, 1] == 1
    starts = np.searchsorted(target, np.arange(count * len(plan.windows) + 1))
    is_whole = len(segments) == len(starts) - 1 and bool((np.diff(starts) == 1).all())
    inputs = _inputs(layout, leaves)
    tiles = nodes.join_directories([n for n in directories.nodes if isinstance(n, Directory)])
    rows, others = np.flatnonzero(of_leaf), np.flatnonzero(~of_leaf)
    (low_row, high_row), (low_tile, high_tile) = (low[rows], high[rows]), (low[others], high[others])
    cache: list[Partial] = []
    for number, use in enumerate(plan.uses):
        parts = use.state.empty(len(segments))
        if len(rows):
            values = inputs[use.input]
            put(parts, rows, values.reduce(use.state, values.rank(low_row), values.rank(high_row)))
        if len(others):
            put(parts, others, use.state.combine(tiles[number], low_tile, high_tile))
        if is_whole:
            cache.append(parts)
        else:
            cache.append(use.state.combine(parts, starts[:-1], starts[1:]))
    instants = np.array([view.t for view in views], np.int64)
    return plan.finish_all(cache, instants)


def _inputs(layout: OnlineLayout, pool: _Pool) -> list[Values]:
    """Return every input over the pool's rows, compressed to what counts."""
    leaves = [node for node in pool.nodes if isinstance(node, Leaf)]
    joined = nodes.join_leaves(leaves) if leaves else nodes.empty_leaf(layout)
    return [nodes.values(layout, number, joined) for number in range(len(layout.aggregates.inputs))]
