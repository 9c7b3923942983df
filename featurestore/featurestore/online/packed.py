"""Nodes of an entity's online state as a read holds them: of their columns it makes only what it asks for."""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import Any

from featurestore.online import nodes
from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import Directory, Leaf

_INSTANT = struct.Struct("<q")


class PackedLeaf:
    """A leaf. `times` and `columns` are as they are stored.

    A column is (bits of validity, or None where all are, values).
    """

    _instants: tuple[int, ...] | None = None
    _whole: Leaf | None = None

    def __init__(self, data: bytes, stored: list[Any]) -> None:
        self.floor: int | None = stored[2]
        self.times: bytes = stored[3]
        self.columns: list[tuple[bytes | None, Any]] = stored[8]
        self._plain: tuple[int, list[bytes]] = stored[11]
        self._data = data

    @property
    def instants(self) -> tuple[int, ...]:
        """The rows' event times."""
        if self._instants is None:
            self._instants = whole_numbers(self.times)
        return self._instants

    @property
    def last(self) -> int:
        """The event time of its last row."""
        instant: int = _INSTANT.unpack_from(self.times, len(self.times) - 8)[0]
        return instant

    @property
    def newest(self) -> bytes | None:
        """The features of its last row; None where it has no row, or the row none."""
        _, features = self._plain
        return features[-1] if features else None

    def plain(self, row: int) -> bytes | None:
        """Return a row's features, packed; None where they are no longer needed."""
        hidden, features = self._plain
        return None if row < hidden else features[row - hidden]

    def segments(self, low: int, high: int) -> list[Segment]:
        """Return the rows of event times [low, high), if there are any."""
        start, end = bisect_left(self.instants, low), bisect_left(self.instants, high)
        return [(self, start, end)] if start < end else []

    def whole(self, layout: OnlineLayout) -> Leaf:
        """Return the leaf with all its columns."""
        if self._whole is None:
            node = nodes.decode(self._data, layout)
            assert isinstance(node, Leaf)
            self._whole = node
        return self._whole


class PackedDirectory:
    """A directory. `plain` is each tile's newest row-level features.

    `states` are the tiles' states as they are stored: a list of columns for each kind.
    """

    _whole: Directory | None = None

    def __init__(self, data: bytes, stored: list[Any]) -> None:
        self.floor: int | None = stored[2]
        self.slices = whole_numbers(stored[3])
        self.states: list[list[bytes]] = stored[4]
        self.plain: list[bytes | None] = stored[5]
        self._plain_times: bytes = stored[6]
        self._data = data

    def plain_time(self, tile: int) -> int:
        """Return the event time of a tile's row-level features."""
        instant: int = _INSTANT.unpack_from(self._plain_times, tile << 3)[0]
        return instant

    def whole(self, layout: OnlineLayout) -> Directory:
        """Return the directory with all its columns."""
        if self._whole is None:
            node = nodes.decode(self._data, layout)
            assert isinstance(node, Directory)
            self._whole = node
        return self._whole


Packed = PackedLeaf | PackedDirectory

Segment = tuple[PackedLeaf | PackedDirectory | Leaf, int, int]
"""Rows of a leaf, or tiles of a directory, from one number up to another."""


def packed(data: bytes, layout: OnlineLayout) -> Packed:
    """Return a node from its bytes. Raises OperatorError on a format of another release."""
    stored = nodes.stored(data, layout)
    return PackedLeaf(data, stored) if stored[1] == nodes.LEAF else PackedDirectory(data, stored)


def whole_numbers(data: bytes) -> tuple[int, ...]:
    """Return the integers of a column."""
    return struct.unpack(f"<{len(data) >> 3}q", data)
