"""What entities' online state says at an instant: newest row-level features and aggregates.

All entities of a request are evaluated together: their windows become ranges over one set of rows and
one set of tiles, and the algebra runs once per kind of state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from featurestore.aggregates.arrays import Partial, put
from featurestore.aggregates.layout import AllFinished, Values
from featurestore.errors import HistoryError, OperatorError
from featurestore.instants import format_instant
from featurestore.online import nodes
from featurestore.online.layout import ROOT, OnlineLayout, node_name
from featurestore.online.nodes import Directory, Leaf, Node
from featurestore.online.packed import Packed, PackedDirectory, PackedLeaf, Segment, packed
from featurestore.plans import Window, seen_until


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
        self._nodes: dict[bytes, Packed] = {}
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
        found = self.segments(low, high)
        if not self._layout.ends:
            return found
        seen = seen_until(self.t, window.left_closed)
        if high < seen and any(self._end(*segment) is not None for segment in self.segments(high, seen)):
            return []
        for number in range(len(found) - 1, -1, -1):
            start = self._end(*found[number])
            if start is not None:
                node, _, end = found[number]
                return [(node, start, end), *found[number + 1 :]]
        return found

    def segments(self, low: int, high: int) -> list[Segment]:
        """Return the parts of the state that cover event times [low, high), in order."""
        root, base = self._node(ROOT), self.base
        if base is None or not low <= base.times[0] < high:
            return [] if root is None else self._segments(root, -1, low, high)
        if root is None:
            return [(base, 0, 1)]
        t = int(base.times[0])  # whose rows lie in one leaf, and the base row stands among them
        at = self._segments(root, -1, t, t + 1)
        node, start, end = at[0] if at else (base, 0, 0)
        place = start + _before(self._leaf(node), start, end, base)
        return [
            *self._segments(root, -1, low, t),
            *((node, start, place), (base, 0, 1), (node, place, end)),
            *self._segments(root, -1, t + 1, high),
        ]

    @property
    def is_deep(self) -> bool:
        """Whether the entity's rows are in more than one leaf."""
        return isinstance(self._node(ROOT), PackedDirectory)

    def _node(self, name: bytes) -> Packed | None:
        if name not in self._nodes:
            data = self._fields.get(name)
            if data is None:
                return None
            self._nodes[name] = packed(data, self._layout)
        return self._nodes[name]

    def _child(self, level: int, number: int) -> Packed:
        child = self._node(node_name(level, number))
        if child is None:
            raise OperatorError(
                f"Online state of '{self._layout.plan.name}' lacks slice {number} of level {level}.",
                hint=f"Run: featurestore materialize {self._layout.plan.name}",
            )
        return child

    def _newest(self, node: Packed, level: int, high: int) -> tuple[tuple[int, bytes] | None, bool]:
        """Return a node's newest features before `high`, and whether the entity ends before them."""
        ends = self._layout.ends
        if isinstance(node, PackedLeaf):
            for i in range(bisect_left(node.instants, high) - 1, -1, -1):
                if (plain := node.plain(i)) is not None:
                    return (node.instants[i], plain), ends
                if ends and self._end(node, i, i + 1) is not None:
                    return None, True
            return None, False
        bits = self._layout.bits[level + 1]
        last = high >> bits
        end = bisect_left(node.slices, last)
        if end < len(node.slices) and node.slices[end] == last and high != last << bits:
            found, is_ended = self._newest(self._child(level + 1, last), level + 1, high)
            if found is not None or is_ended:
                return found, is_ended
        for i in range(end - 1, -1, -1):
            if (plain := node.plain[i]) is not None:
                return (node.plain_time(i), plain), ends
            if ends and self._end(node, i, i + 1) is not None:
                return None, True
        return None, False

    def _segments(self, node: Packed, level: int, low: int, high: int) -> list[Segment]:
        if low >= high:
            return []
        if isinstance(node, PackedLeaf):
            return node.segments(low, high)
        bits = self._layout.bits[level + 1]
        first, last = low >> bits, high >> bits
        if first == last:
            return self._partial(node, level, first, low, high)
        found = []
        if low != first << bits:
            found = self._partial(node, level, first, low, (first + 1) << bits)
            first += 1
        start, end = bisect_left(node.slices, first), bisect_left(node.slices, last)
        if start < end:
            found.append((node, start, end))
        if high != last << bits:
            found += self._partial(node, level, last, last << bits, high)
        return found

    def _partial(self, node: PackedDirectory, level: int, number: int, low: int, high: int) -> list[Segment]:
        place = bisect_left(node.slices, number)
        if place == len(node.slices) or node.slices[place] != number:
            return []
        return self._segments(self._child(level + 1, number), level + 1, low, high)

    def _holds(self, base: Leaf) -> bool:
        """Tell whether a row of base's event time and id is stored."""
        if base.ids is None:
            return False
        root, t = self._node(ROOT), int(base.times[0])
        found = [] if root is None else self._segments(root, -1, t, t + 1)
        leaves = ((self._leaf(node), i, j) for node, i, j in found)
        return any(
            leaf.ids is not None and bool((leaf.ids[i:j] == base.ids[0]).any()) for leaf, i, j in leaves
        )

    def _leaf(self, node: Packed | Leaf) -> Leaf:
        """Return a leaf with all its columns."""
        leaf = node if isinstance(node, Leaf) else node.whole(self._layout)
        assert isinstance(leaf, Leaf)
        return leaf

    def _end(self, node: Packed | Leaf, start: int, end: int) -> int | None:
        """Return where rows or tiles count from, if the entity ends among them."""
        if isinstance(node, PackedDirectory):
            ended = np.flatnonzero(node.whole(self._layout).ended[start:end])
            return start + int(ended[-1]) if len(ended) else None
        deleted = self._leaf(node).deleted
        assert deleted is not None
        ended = np.flatnonzero(deleted[start:end])
        return start + int(ended[-1]) + 1 if len(ended) else None


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
        self._layout = layout
        self._columns = sorted({column for column in columns if column is not None})
        self._with_newest = with_newest
        self._left_closed = layout.plan.left_closed
        self._reach = layout.plan.reach

    def __call__(self, root: bytes | None, t: int) -> PackedLeaf | None:
        """Return the leaf; None where it is none of these at `t`."""
        if root is None or nodes.is_directory(root):
            return None
        leaf = PackedLeaf(root, nodes.stored(root, self._layout))
        if not leaf.times or (leaf.floor is not None and t - self._reach < leaf.floor):
            return None
        for column in self._columns:
            if leaf.columns[column][0] is not None:
                return None
        if not self._with_newest:
            return leaf
        is_seen = leaf.last < seen_until(t, self._left_closed)
        return leaf if is_seen and leaf.newest is not None else None


def _before(leaf: Leaf, start: int, end: int, base: Leaf) -> int:
    """Return how many of a leaf's rows, all of the base row's instant, come before it in order."""

    def rank(leaf: Leaf, row: int) -> tuple[int, int, int]:
        order = 0 if leaf.order is None else int(leaf.order[row])
        return order, int(leaf.ingest[row]), int(leaf.hashes[row])

    return sum(rank(leaf, row) < rank(base, 0) for row in range(start, end))


class _Pool:
    """Nodes whose columns are laid end to end, and where each begins."""

    def __init__(self, layout: OnlineLayout) -> None:
        self.nodes: list[Node] = []
        self._layout = layout
        self._starts: dict[int, int] = {}
        self._size = 0

    def place(self, node: Packed | Leaf) -> int:
        """Return where the node's first entry stands."""
        start = self._starts.get(id(node))
        if start is None:
            start = self._starts[id(node)] = self._size
            whole = node if isinstance(node, Leaf) else node.whole(self._layout)
            self.nodes.append(whole)
            self._size += len(whole) if isinstance(whole, Leaf) else len(whole.slices)
        return start


def aggregates(layout: OnlineLayout, views: Sequence[EntityView]) -> AllFinished:
    """Return the aggregates' values and validity, one per view, at the views' instants."""
    plan = layout.aggregates
    count = len(views)
    leaves, directories = _Pool(layout), _Pool(layout)
    segments: list[tuple[int, bool, int, int]] = []  # (target, of a leaf, low, high), by target, in order
    for number, window in enumerate(plan.windows):
        for place, view in enumerate(views):
            for node, start, end in view.window(window):
                is_leaf = not isinstance(node, PackedDirectory)
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
