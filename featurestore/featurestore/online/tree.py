"""Changes to an entity's online state: rows go to their leaf, full leaves split, tiles follow.

A tile is always recomputed from its whole leaf, or from its whole child directory, so the state is a
function of the set of rows: not of their order, nor of how they were cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from featurestore.aggregates.arrays import Array, Partial
from featurestore.online import nodes
from featurestore.online.layout import LEAF_ROWS, ROOT, OnlineLayout, node_name
from featurestore.online.nodes import Directory, Leaf, Node

Fetch = Callable[[Sequence[bytes]], Sequence[bytes | None]]
"""Reads more fields of the same entity."""


class Update:
    """One entity's change: the fields that were read, and those to write (None: to delete)."""

    def __init__(
        self,
        layout: OnlineLayout,
        stored: Mapping[bytes, bytes | None],
        floors: tuple[int, int] | None,
        fetch: Fetch,
    ) -> None:
        self._layout = layout
        self._stored = stored
        self._floors = floors
        self._fetch = fetch
        self._changed: dict[bytes, Node | None] = {}

    def apply(self, rows: Leaf) -> dict[bytes, bytes | None]:
        """Return the fields to write once `rows` (in any order) are part of the state."""
        root = self._insert(ROOT, -1, rows)
        if self._floors is not None:
            root = self._prune(root, *self._floors)
        self._changed[ROOT] = root
        return {
            name: None if node is None else nodes.encode(node, self._layout)
            for name, node in self._changed.items()
        }

    def _insert(self, name: bytes, level: int, rows: Leaf) -> Node:
        data = self._stored.get(name)
        node: Node = nodes.empty_leaf(self._layout) if data is None else nodes.decode(data, self._layout)
        node = self._grow(node, level, rows) if isinstance(node, Leaf) else self._descend(node, level, rows)
        self._changed[name] = node
        return node

    def _grow(self, leaf: Leaf, level: int, rows: Leaf) -> Node:
        merged = self._trim(_merge(leaf, rows, self._layout.plan.source.on_duplicate == "replace"))
        if len(merged) <= LEAF_ROWS or level + 1 >= len(self._layout.bits):
            return merged
        none = np.zeros(0, "<i8")
        blank = Directory(
            none,
            tuple(use.state.empty(0) for use in self._layout.aggregates.uses),
            [],
            none,
            np.zeros(0, bool),
            floor=merged.floor,
        )
        return self._descend(blank, level, replace(merged, floor=None))

    def _descend(self, node: Directory, level: int, rows: Leaf) -> Directory:
        """Put rows into the children of a directory at `level`, and renew those children's tiles."""
        below = level + 1
        numbers = rows.times >> self._layout.bits[below]
        touched = np.unique(numbers)
        tiles = []
        for number in touched.tolist():
            child = self._insert(
                node_name(below, number), below, rows.take(np.flatnonzero(numbers == number))
            )
            tiles.append(self._tile(number, child))
        kept = nodes.take_tiles(node, np.flatnonzero(~np.isin(node.slices, touched)))
        joined = Directory(
            np.concatenate([kept.slices, touched]),
            nodes.join_directories([kept, *tiles]),
            [*kept.plain, *(tile.plain[0] for tile in tiles)],
            np.concatenate([kept.plain_times, *(tile.plain_times for tile in tiles)]),
            np.concatenate([kept.deep, *(tile.deep for tile in tiles)]),
            node.older,
            node.floor,
        )
        return nodes.take_tiles(joined, np.argsort(joined.slices))

    def _tile(self, number: int, child: Node) -> Directory:
        plain, time = newest_plain(child)
        return Directory(
            np.array([number]),
            self._summary(child),
            [plain],
            np.array([time]),
            np.array([isinstance(child, Directory)]),
        )

    def _summary(self, child: Node) -> tuple[Partial, ...]:
        low, high = np.zeros(1, np.int64), np.zeros(1, np.int64)
        uses = self._layout.aggregates.uses
        if isinstance(child, Directory):
            high[:] = len(child.slices)
            return tuple(
                use.state.combine(states, low, high) for use, states in zip(uses, child.states, strict=True)
            )
        summary = []
        for use in uses:
            values, valid = self._layout.parts.input(use.input, child.parts, len(child))
            if valid is not None:
                values = values[valid]
            summary.append(use.state.reduce(values, low, np.array([len(values)])))
        return tuple(summary)

    def _trim(self, leaf: Leaf) -> Leaf:
        """Return the leaf without row-level values that no instant of the history can see."""
        if self._floors is None or not self._layout.has_plain:
            return leaf
        needed = leaf.times > self._floors[1]
        before = [i for i in np.flatnonzero(~needed).tolist() if leaf.plain[i] is not None]
        if len(before) < 2:
            return leaf
        plain = list(leaf.plain)
        for i in before[:-1]:
            plain[i] = None
        return replace(leaf, plain=plain)

    def _prune(self, root: Node, floor: int, plain_floor: int) -> Node:
        """Return the root without what lies before the floor, deleting the fields of its old slices."""
        if isinstance(root, Leaf):
            keep = root.times >= floor
            if keep.all():
                return root
            before = [
                i for i in np.flatnonzero(root.times <= plain_floor).tolist() if root.plain and root.plain[i]
            ]
            keep[before[-1:]] = True
            return replace(root.take(np.flatnonzero(keep)), floor=max(floor, root.floor or floor))
        bits = self._layout.bits[0]
        stale = np.flatnonzero((root.slices + 1) << bits <= floor)
        if not len(stale):
            return root
        dropped = nodes.take_tiles(root, stale)
        self._forget(0, dropped)
        older = root.older
        for plain, time in zip(dropped.plain, dropped.plain_times.tolist(), strict=True):
            if plain is not None and (older is None or time >= older[0]):
                older = (time, plain)
        kept = nodes.take_tiles(root, np.setdiff1d(np.arange(len(root.slices)), stale))
        return replace(kept, older=older, floor=max(floor, root.floor or floor))

    def _forget(self, level: int, dropped: Directory) -> None:
        """Mark the fields of dropped slices, and of all below them, for deletion."""
        names = [node_name(level, number) for number in dropped.slices.tolist()]
        deep = [name for name, is_deep in zip(names, dropped.deep.tolist(), strict=True) if is_deep]
        self._changed.update(dict.fromkeys(names))
        for data in self._fetch(deep) if deep else ():
            child = None if data is None else nodes.decode(data, self._layout)
            if isinstance(child, Directory):
                self._forget(level + 1, child)


def newest_plain(node: Node) -> tuple[bytes | None, int]:
    """Return the newest row-level features of a node and their event time (0 where there are none)."""
    times = node.times if isinstance(node, Leaf) else node.plain_times
    for i in range(len(node.plain) - 1, -1, -1):
        if node.plain[i] is not None:
            return node.plain[i], int(times[i])
    return None, 0


def _merge(leaf: Leaf, rows: Leaf, newest_counts: bool) -> Leaf:
    """Return both leaves' rows in order, one per (event time, id)."""
    joined = nodes.join_leaves([leaf, rows]) if len(leaf) else rows
    joined = replace(joined, floor=leaf.floor)
    keys = [joined.hashes, joined.ingest, joined.times]
    if joined.order is not None:
        keys.insert(2, joined.order)
    order = np.lexsort(keys)
    if joined.ids is not None and len(order) > 1:
        order = order[_distinct(joined.times[order], joined.ids[order], newest_counts)]
    return joined.take(order)


def _distinct(times: Array, ids: Array, newest_counts: bool) -> Array:
    if (times[1:] != times[:-1]).all():
        return np.arange(len(times))
    sequence = np.arange(len(times))
    order = np.lexsort((-sequence if newest_counts else sequence, ids, times))
    fresh = np.ones(len(times), bool)
    fresh[1:] = (times[order[1:]] != times[order[:-1]]) | (ids[order[1:]] != ids[order[:-1]])
    return np.sort(order[fresh])
