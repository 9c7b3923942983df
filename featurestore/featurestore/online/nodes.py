"""Nodes of an entity's online state and their bytes.

A leaf holds rows, column by column; a directory holds one tile per slice of its children. Both are
MessagePack arrays of little-endian columns, tagged with the format's version.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from featurestore.aggregates.arrays import Array, Partial, concatenate, object_array, take
from featurestore.aggregates.inputs import RowParts
from featurestore.aggregates.layout import Values
from featurestore.errors import OperatorError
from featurestore.online.layout import FORMAT, OnlineLayout

LEAF, _DIRECTORY = 0, 1
_DIRECTORY_TAG = bytes([FORMAT, _DIRECTORY])  # behind the header of an array of a few items
_INSTANT = struct.Struct("<q")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True)
class Leaf:
    """Rows in order. `plain` is each row's row-level features, packed, or None where no longer needed.

    Times are microseconds. `floor` is the event time before which rows may be missing (None: none are).
    `deleted` marks rows that retract their id or end their entity; None where the source has none.
    """

    times: Array
    ingest: Array
    hashes: Array
    order: Array | None
    ids: Array | None
    parts: RowParts
    plain: list[bytes | None]
    floor: int | None = None
    deleted: Array | None = None

    def __len__(self) -> int:
        return len(self.times)

    def take(self, index: Array) -> Leaf:
        """Return the rows at `index`."""
        plain = self.plain
        return Leaf(
            self.times[index],
            self.ingest[index],
            self.hashes[index],
            None if self.order is None else self.order[index],
            None if self.ids is None else self.ids[index],
            RowParts(
                tuple((values[index], valid[index]) for values, valid in self.parts.columns),
                tuple(condition[index] for condition in self.parts.conditions),
                tuple(category[index] for category in self.parts.categories),
            ),
            [plain[i] for i in index.tolist()] if plain else plain,
            self.floor,
            None if self.deleted is None else self.deleted[index],
        )

    def between(self, start: int, end: int) -> Leaf:
        """Return the rows from `start` up to `end`, of no floor."""
        return Leaf(
            self.times[start:end],
            self.ingest[start:end],
            self.hashes[start:end],
            None if self.order is None else self.order[start:end],
            None if self.ids is None else self.ids[start:end],
            RowParts(
                tuple((values[start:end], valid[start:end]) for values, valid in self.parts.columns),
                tuple(condition[start:end] for condition in self.parts.conditions),
                tuple(category[start:end] for category in self.parts.categories),
            ),
            self.plain[start:end],
            None,
            None if self.deleted is None else self.deleted[start:end],
        )


@dataclass(frozen=True)
class Directory:
    """Tiles of child slices, in order: `slices` are their numbers, `states` one partial per state kind.

    `plain` and `plain_times` are each slice's newest row-level features; `deep` tells which children are
    directories; `ended` in which slices a deleted row ends the entity: all else tells of the rows after it.
    """

    slices: Array
    states: tuple[Partial, ...]
    plain: list[bytes | None]
    plain_times: Array
    deep: Array
    ended: Array
    floor: int | None = None


Node = Leaf | Directory


def encode(node: Node, layout: OnlineLayout) -> bytes:
    """Return the bytes of a node."""
    if isinstance(node, Leaf):
        hidden = leading_nulls(node.plain)
        return leaf_bytes(
            node.floor,
            node.times.tobytes(),
            node.ingest.tobytes(),
            node.hashes.tobytes(),
            None if node.order is None else node.order.tobytes(),
            None if node.ids is None else node.ids.tobytes(),
            [_pack_column(*column) for column in node.parts.columns],
            [np.packbits(condition).tobytes() for condition in node.parts.conditions],
            [category.astype("<i2").tobytes() for category in node.parts.categories],
            [hidden, node.plain[hidden:]],
            None if node.deleted is None else np.packbits(node.deleted).tobytes(),
        )
    return _encode(
        [
            FORMAT,
            _DIRECTORY,
            node.floor,
            node.slices.tobytes(),
            [
                use.state.encode(states)
                for use, states in zip(layout.aggregates.uses, node.states, strict=True)
            ],
            node.plain,
            node.plain_times.tobytes(),
            np.packbits(node.deep).tobytes(),
            np.packbits(node.ended).tobytes(),
        ]
    )


def decode(data: bytes, layout: OnlineLayout) -> Node:
    """Return the node that `encode` wrote. Raises OperatorError on a format of another release."""
    _, kind, floor, *columns = stored(data, layout)
    if kind == LEAF:
        times, ingest, hashes, order, ids, values, conditions, categories, (hidden, plain), deleted = columns
        stamps = np.frombuffer(times, "<i8")
        size = len(stamps)
        parts = RowParts(
            tuple(
                _unpack_column(column, dtype, size)
                for column, dtype in zip(values, layout.parts.dtypes(), strict=True)
            ),
            tuple(bits(condition, size) for condition in conditions),
            tuple(np.frombuffer(category, "<i2") for category in categories),
        )
        return Leaf(
            stamps,
            np.frombuffer(ingest, "<i8"),
            np.frombuffer(hashes, "<i8"),
            None if order is None else np.frombuffer(order, "<i8"),
            None if ids is None else np.frombuffer(ids, "<i8"),
            parts,
            [None] * hidden + plain,
            floor,
            None if deleted is None else bits(deleted, size),
        )
    slices, states, plain, plain_times, deep, ended = columns
    numbers = np.frombuffer(slices, "<i8")
    return Directory(
        numbers,
        tuple(use.state.decode(item) for use, item in zip(layout.aggregates.uses, states, strict=True)),
        plain,
        np.frombuffer(plain_times, "<i8"),
        bits(deep, len(numbers)),
        bits(ended, len(numbers)),
        floor,
    )


def leaf_bytes(floor: int | None, *columns: Any) -> bytes:
    """Return the bytes of a leaf, its columns encoded: those of `Leaf`, with `plain` as a pair.

    The pair is how many rows come before the first with row-level features, and those of the others.
    """
    return _encode([FORMAT, LEAF, floor, *columns])


def leaf_parts(data: bytes, layout: OnlineLayout) -> list[Any] | None:
    """Return what `leaf_bytes` was given; None of a directory. Raises OperatorError as `decode`."""
    _, kind, *parts = stored(data, layout)
    return parts if kind == LEAF else None


def is_directory(data: bytes | None) -> bool:
    """Tell whether these are a directory's bytes."""
    return data is not None and data[1:3] == _DIRECTORY_TAG


def leading_nulls(items: Sequence[bytes | None]) -> int:
    """Return how many items come before the first that is not None."""
    return next((i for i, item in enumerate(items) if item is not None), len(items))


def stored(data: bytes, layout: OnlineLayout) -> list[Any]:
    """Return a node's format, kind, floor and columns as stored. Raises OperatorError as `decode`."""
    items: list[Any] = _decode(data)
    if items[0] != FORMAT:
        raise OperatorError(
            f"Online state of '{layout.plan.name}' has format {items[0]}, this release reads {FORMAT}.",
            hint=f"Run: featurestore materialize {layout.plan.name}",
        )
    return items


def last_row(data: bytes) -> tuple[int, bytes, int | None] | None:
    """Return the event time and features of a leaf's last row, and its floor; None where it has none."""
    node = _decode(data)
    if node[0] != FORMAT or node[1] != LEAF:
        return None
    times, (_, plain) = node[3], node[11]
    if not plain or plain[-1] is None:
        return None
    return _INSTANT.unpack_from(times, len(times) - 8)[0], plain[-1], node[2]


def empty_leaf(layout: OnlineLayout) -> Leaf:
    """Return a leaf without rows."""
    none = np.zeros(0, "<i8")
    return Leaf(
        none,
        none,
        none,
        none if layout.has_order else None,
        none if layout.has_ids else None,
        RowParts(
            tuple((np.zeros(0, dtype), np.zeros(0, bool)) for dtype in layout.parts.dtypes()),
            tuple(np.zeros(0, bool) for _ in layout.parts.conditions),
            tuple(np.zeros(0, "<i2") for _ in layout.parts.categories),
        ),
        [],
        deleted=np.zeros(0, bool) if layout.has_deleted else None,
    )


def join_leaves(leaves: Sequence[Leaf]) -> Leaf:
    """Return the rows of all leaves, one after another, in no new order."""
    if len(leaves) == 1:
        return leaves[0]
    first = leaves[0]
    parts = [leaf.parts for leaf in leaves]
    return Leaf(
        np.concatenate([leaf.times for leaf in leaves]),
        np.concatenate([leaf.ingest for leaf in leaves]),
        np.concatenate([leaf.hashes for leaf in leaves]),
        None if first.order is None else np.concatenate([leaf.order for leaf in leaves]),
        None if first.ids is None else np.concatenate([leaf.ids for leaf in leaves]),
        RowParts(
            tuple(
                (np.concatenate([c[0] for c in columns]), np.concatenate([c[1] for c in columns]))
                for columns in zip(*(part.columns for part in parts), strict=True)
            ),
            tuple(np.concatenate(c) for c in zip(*(part.conditions for part in parts), strict=True)),
            tuple(np.concatenate(c) for c in zip(*(part.categories for part in parts), strict=True)),
        ),
        [item for leaf in leaves for item in leaf.plain],
        first.floor,
        None if first.deleted is None else np.concatenate([leaf.deleted for leaf in leaves]),
    )


def values(layout: OnlineLayout, number: int, rows: Leaf) -> Values:
    """Return an input over a leaf's rows, without what does not count: nothing of a deleted row does."""
    found, valid = layout.parts.input(number, rows.parts, len(rows))
    if rows.deleted is not None:
        valid = ~rows.deleted if valid is None else valid & ~rows.deleted
    return Values.of(found, valid, rows.times)


def join_directories(parts: Sequence[Directory]) -> tuple[Partial, ...]:
    """Return the tiles' states of all directories, one after another."""
    return tuple(concatenate(list(states)) for states in zip(*(part.states for part in parts), strict=True))


def take_tiles(node: Directory, index: Array) -> Directory:
    """Return a directory of the tiles at `index`."""
    return Directory(
        node.slices[index],
        tuple(take(states, index) for states in node.states),
        [node.plain[i] for i in index.tolist()],
        node.plain_times[index],
        node.deep[index],
        node.ended[index],
        node.floor,
    )


def _pack_column(values: Array, valid: Array) -> list[Any]:
    bits = None if valid.all() else np.packbits(valid).tobytes()
    return [bits, values.tolist() if values.dtype == object else values.tobytes()]


def _unpack_column(column: list[Any], dtype: str, size: int) -> tuple[Array, Array]:
    packed, data = column
    valid = np.ones(size, bool) if packed is None else bits(packed, size)
    return (object_array(data) if dtype == "object" else np.frombuffer(data, dtype)), valid


def bits(data: bytes, size: int) -> Array:
    """Return as many flags as were packed."""
    return np.unpackbits(np.frombuffer(data, np.uint8), count=size).astype(bool)
