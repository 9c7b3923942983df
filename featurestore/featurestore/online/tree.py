"""Changes to an entity's online state: rows go to their leaf, full leaves split, tiles follow.

A tile is always recomputed from its whole leaf, or from its whole child directory, so the state is a
function of the set of rows: not of their order, nor of how they were cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from featurestore.aggregates.arrays import Array, Partial, concatenate, put
from featurestore.online import nodes
from featurestore.online.layout import LEAF_ROWS, ROOT, OnlineLayout, node_name
from featurestore.online.nodes import Directory, Leaf, Node
from featurestore.plans import BEGINNING

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
        self._blank = nodes.empty_leaf(layout)
        self._trimmed = False
        self.newest = BEGINNING
        """Once applied: an instant that no row of the entity is after; the end of a slice in a directory."""

    def apply(self, rows: Leaf) -> dict[bytes, bytes | None]:
        """Return the fields to write once `rows` (in any order) are part of the state."""
        root = self._insert(ROOT, -1, rows)
        if self._floors is not None:
            root = self._prune(root, *self._floors)
        self._changed[ROOT] = root
        self.newest = self._end_of(root)
        return {
            name: None if node is None else nodes.encode(node, self._layout)
            for name, node in self._changed.items()
        }

    def _end_of(self, root: Node) -> int:
        if isinstance(root, Leaf):
            return int(root.times[-1]) if len(root) else BEGINNING
        return (int(root.slices[-1]) + 1 << self._layout.bits[0]) - 1 if len(root.slices) else BEGINNING

    def _insert(self, name: bytes, level: int, rows: Leaf) -> Node:
        data = self._stored.get(name)
        node: Node = self._blank if data is None else nodes.decode(data, self._layout)
        node = self._grow(node, level, rows) if isinstance(node, Leaf) else self._descend(node, level, rows)
        self._changed[name] = node
        return node

    def _grow(self, leaf: Leaf, level: int, rows: Leaf) -> Node:
        merged = self._trim(_merge(leaf, rows, self._layout.plan.source.on_duplicate == "replace"))
        if is_leaf(len(merged)) or level + 1 >= len(self._layout.bits):
            return merged
        return self._split(merged, level)

    def _split(self, leaf: Leaf, level: int) -> Directory:
        """Return the directory of a leaf that is too large for one; its rows are in order, and trimmed."""
        below = level + 1
        numbers, starts = np.unique(leaf.times >> self._layout.bits[below], return_index=True)
        children: list[Node] = []
        for number, start, end in _ranges(numbers, starts, len(leaf)):
            part = leaf.between(start, end)
            is_small = is_leaf(end - start) or below + 1 >= len(self._layout.bits)
            child = part if is_small else self._split(part, below)
            self._changed[node_name(below, number)] = child
            children.append(child)
        return self._directory(numbers, children, leaf.floor)

    def _descend(self, node: Directory, level: int, rows: Leaf) -> Directory:
        """Put rows into the children of a directory at `level`, and renew those children's tiles."""
        below = level + 1
        numbers = rows.times >> self._layout.bits[below]
        if (numbers[1:] < numbers[:-1]).any():
            order = np.argsort(numbers, kind="stable")
            rows, numbers = rows.take(order), numbers[order]
        touched, starts = np.unique(numbers, return_index=True)
        children = [
            self._insert(node_name(below, number), below, rows.between(start, end))
            for number, start, end in _ranges(touched, starts, len(rows))
        ]
        renewed = self._directory(touched, children, node.floor)
        kept = nodes.take_tiles(node, np.flatnonzero(~np.isin(node.slices, touched)))
        joined = Directory(
            np.concatenate([kept.slices, renewed.slices]),
            tuple(concatenate([*each]) for each in zip(kept.states, renewed.states, strict=True)),
            [*kept.plain, *renewed.plain],
            np.concatenate([kept.plain_times, renewed.plain_times]),
            np.concatenate([kept.deep, renewed.deep]),
            np.concatenate([kept.ended, renewed.ended]),
            node.floor,
        )
        if not len(kept.slices) or kept.slices[-1] < touched[0]:
            return joined
        return nodes.take_tiles(joined, np.argsort(joined.slices))

    def _directory(self, numbers: Array, children: list[Node], floor: int | None) -> Directory:
        """Return the tiles of these slices' nodes."""
        newest = [newest_plain(child, self._layout) for child in children]
        return Directory(
            numbers,
            tuple(self._tiles(children)),
            [plain for plain, _ in newest],
            np.array([time for _, time in newest], "<i8"),
            np.array([isinstance(child, Directory) for child in children]),
            np.array([self._end(child) >= 0 for child in children]),
            floor,
        )

    def _end(self, node: Node) -> int:
        """Return the last row, or tile, of a node in which the entity ends; -1 where it does not."""
        if not self._layout.ends:
            return -1
        ended = node.deleted if isinstance(node, Leaf) else node.ended
        assert ended is not None
        places = np.flatnonzero(ended)
        return int(places[-1]) if len(places) else -1

    def _tiles(self, children: list[Node]) -> list[Partial]:
        """Return the children's states, one entry per child: from all rows of each, or all its tiles.

        Where the entity ends in a child, from what comes after. Tiles are merged one directory at a time:
        how their merges round does not depend on what else is written.
        """
        leaves = [child for child in children if isinstance(child, Leaf)]
        directories = [child for child in children if isinstance(child, Directory)]
        is_leaf = np.array([isinstance(child, Leaf) for child in children])
        rows = nodes.join_leaves(leaves) if leaves else self._blank
        row_ends = np.cumsum([len(leaf) for leaf in leaves], dtype=np.int64)
        ended_rows = np.array([self._end(leaf) + 1 for leaf in leaves], np.int64)
        tiles = [
            (child, np.array([max(self._end(child), 0)]), np.array([len(child.slices)]))
            for child in directories
        ]
        row_starts = np.append(0, row_ends[:-1]) + ended_rows
        result = []
        for number, use in enumerate(self._layout.aggregates.uses):
            states = use.state.empty(len(children))
            if leaves:
                values = nodes.values(self._layout, use.input, rows)
                low, high = values.rank(row_starts), values.rank(row_ends)
                put(states, is_leaf, values.reduce(use.state, low, high))
            if directories:
                merged = [use.state.combine(child.states[number], low, high) for child, low, high in tiles]
                put(states, ~is_leaf, concatenate(merged))
            result.append(states)
        return result

    def _trim(self, leaf: Leaf) -> Leaf:
        """Return the leaf without row-level values that no instant of the history can see.

        Rows of the newest instant before the history keep theirs: a copy that comes late may reorder them.
        """
        if self._floors is None or not self._layout.has_plain or leaf.times[0] > self._floors[1]:
            return leaf
        before = self._telling(leaf, leaf.times <= self._floors[1])
        unseen = [i for i in before if leaf.times[i] < leaf.times[before[-1]] and leaf.plain[i] is not None]
        if not unseen:
            return leaf
        self._trimmed = True
        plain = list(leaf.plain)
        for i in unseen:
            plain[i] = None
        return replace(leaf, plain=plain)

    def _prune(self, root: Node, floor: int, plain_floor: int) -> Node:
        """Return the root without what lies before the floor, deleting the fields of its old slices.

        The rows of the newest row-level values before the history stay, whatever their age: copies of them,
        and rows of the same instant, that come late are then told apart.
        """
        complete = max(floor, root.floor or floor)
        if isinstance(root, Leaf):
            keep = root.times >= floor
            before = self._telling(root, root.times <= plain_floor)
            if before:
                keep |= root.times == root.times[before[-1]]
            if keep.all():
                return replace(root, floor=complete) if self._trimmed else root
            return replace(root.take(np.flatnonzero(keep)), floor=complete)
        ends = (root.slices + 1) << self._layout.bits[0]
        stale = ends <= floor
        stale[self._telling(root, ends <= plain_floor)[-1:]] = False
        if not stale.any():
            return replace(root, floor=complete) if self._trimmed else root
        self._forget(0, nodes.take_tiles(root, np.flatnonzero(stale)))
        return replace(nodes.take_tiles(root, np.flatnonzero(~stale)), floor=complete)

    def _telling(self, node: Node, old: Array) -> list[int]:
        """Return the old rows or tiles that tell the row-level features before the history, if the last does.

        A row that ends the entity tells that there are none.
        """
        ended = node.deleted if isinstance(node, Leaf) else node.ended
        tells = self._layout.ends and self._layout.has_plain
        return [
            i
            for i in np.flatnonzero(old).tolist()
            if (node.plain and node.plain[i] is not None) or (tells and ended is not None and ended[i])
        ]

    def _forget(self, level: int, dropped: Directory) -> None:
        """Mark the fields of dropped slices, and of all below them, for deletion."""
        names = [node_name(level, number) for number in dropped.slices.tolist()]
        deep = [name for name, is_deep in zip(names, dropped.deep.tolist(), strict=True) if is_deep]
        children = [self._changed[name] for name in deep if name in self._changed]
        stored = [name for name in deep if name not in self._changed]
        self._changed.update(dict.fromkeys(names))
        for data in self._fetch(stored) if stored else ():
            children.append(None if data is None else nodes.decode(data, self._layout))
        for child in children:
            if isinstance(child, Directory):
                self._forget(level + 1, child)


def leaf_rows() -> int:
    """Return the most rows that a leaf has."""
    return LEAF_ROWS


def is_leaf(rows: int) -> bool:
    """Tell whether so many rows are few enough for a leaf."""
    return rows <= LEAF_ROWS


def newest_plain(node: Node, layout: OnlineLayout) -> tuple[bytes | None, int]:
    """Return the newest row-level features of a node and their event time (0 where there are none)."""
    times, ended = (node.times, node.deleted) if isinstance(node, Leaf) else (node.plain_times, node.ended)
    for i in range(len(node.plain) - 1, -1, -1):
        if node.plain[i] is not None:
            return node.plain[i], int(times[i])
        if layout.ends and ended is not None and ended[i]:
            break
    return None, 0


def _ranges(numbers: Array, starts: Array, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield each slice's number, and where its rows start and end among `size` rows."""
    ends = [*starts[1:].tolist(), size]
    return zip(numbers.tolist(), starts.tolist(), ends, strict=True)


def _merge(leaf: Leaf, rows: Leaf, newest_counts: bool) -> Leaf:
    """Return both leaves' rows in order, one per (event time, id)."""
    joined = nodes.join_leaves([leaf, rows]) if len(leaf) else rows
    if joined.floor != leaf.floor:
        joined = replace(joined, floor=leaf.floor)
    if (joined.times[1:] > joined.times[:-1]).all():
        return joined
    order = row_order(joined)
    if joined.ids is not None and len(order) > 1:
        deleted = None if joined.deleted is None else joined.deleted[order]
        order = order[distinct(joined.times[order], joined.ids[order], deleted, newest_counts)]
    in_order = len(order) == len(joined) and bool((order[1:] > order[:-1]).all())
    return joined if in_order else joined.take(order)


def row_order(rows: Leaf, entity: Array | None = None) -> Array:
    """Return the places of rows in order; of those of several entities, of each together."""
    keys = [rows.hashes, rows.ingest, rows.times]
    if rows.order is not None:
        keys.insert(2, rows.order)
    return np.lexsort(keys if entity is None else [*keys, entity])


def distinct(
    times: Array, ids: Array, deleted: Array | None, newest_counts: bool, *, entity: Array | None = None
) -> Array:
    """Return the rows that stand for their ids: the newest, or the first, before which retractions go.

    Rows are in order; those of several entities are told apart by `entity`.
    """
    same = times[1:] == times[:-1]
    if entity is not None:
        same &= entity[1:] == entity[:-1]
    if not same.any():
        return np.arange(len(times))
    sequence = np.arange(len(times))
    keys = [-sequence if newest_counts else sequence, ids, times]
    if deleted is not None and not newest_counts:
        keys.insert(1, ~deleted)
    if entity is not None:
        keys.append(entity)
    order = np.lexsort(keys)
    fresh = np.ones(len(times), bool)
    fresh[1:] = (times[order[1:]] != times[order[:-1]]) | (ids[order[1:]] != ids[order[:-1]])
    if entity is not None:
        fresh[1:] |= entity[order[1:]] != entity[order[:-1]]
    return np.sort(order[fresh])
