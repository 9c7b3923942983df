"""The first rows of shards that nobody has written yet: whole columns to entities' state, at once.

It is for sets of row-level features alone, and for entities with one row. Their leaves differ in a few fields
of eight bytes and in the features, so they are laid into copies of a leaf that `nodes.encode` made.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import plans
from featurestore.aggregates.arrays import Array
from featurestore.online import nodes
from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import Leaf
from featurestore.rows.packing import binary_array, has_kernel, is_packable, pack_rows

_STAMP = 0x1122334455667700
"""Stands for a value of eight bytes in a leaf that is copied; the next ones for the next values."""

_PLAIN = bytes(range(1, 32))


@dataclass(frozen=True)
class Block:
    """Entities of one shard and their leaves; `newest` is the event time of the newest."""

    keys: list[bytes]
    leaves: list[bytes]
    newest: list[int]


def fits(layout: OnlineLayout) -> bool:
    """Tell whether the set's leaves can be laid here."""
    return (
        has_kernel()
        and not layout.aggregates.inputs
        and layout.has_plain
        and not layout.has_deleted
        and all(is_packable(field.type) for field in layout.plan.plain)
    )


def blocks(layout: OnlineLayout, rows: pl.DataFrame, shards: Collection[int]) -> dict[int, Block]:
    """Return by shard, of those named, the entities of its rows, unless one has several rows."""
    rows = rows.filter(pl.col(plans.SHARD).is_in(list(shards)))
    places = rows.select(plans.SHARD, plans.KEY).with_row_index("place").sort(plans.SHARD)
    several = rows.filter(rows[plans.KEY].is_duplicated())[plans.SHARD].unique().to_list()
    order = places["place"].to_numpy()
    shard, keys = places[plans.SHARD].to_numpy(), places[plans.KEY]
    made = pl.from_arrow(_leaves(layout, rows).take(pa.array(order)))
    assert isinstance(made, pl.Series)
    times = _times(rows)[order]
    bounds = np.flatnonzero(np.diff(shard)) + 1
    found = {}
    for start, end in zip([0, *bounds.tolist()], [*bounds.tolist(), len(shard)], strict=True):
        if end > start and (number := int(shard[start])) not in several:
            found[number] = Block(
                keys[start:end].to_list(), made[start:end].to_list(), times[start:end].tolist()
            )
    return found


def _leaves(layout: OnlineLayout, rows: pl.DataFrame) -> pa.LargeBinaryArray:
    """Return the bytes of a leaf of each row."""
    names = [plans.EVENT_TIME, plans.INGEST_TIME, plans.ROW_HASH]
    names += [plans.ORDER] if layout.has_order else []
    names += [plans.EVENT_ID] if layout.has_ids else []
    stamps = [np.array([_STAMP + number], "<i8") for number in range(len(names))]
    empty = nodes.empty_leaf(layout)
    places = dict(zip(names, stamps, strict=True))
    model = nodes.encode(
        Leaf(
            places[plans.EVENT_TIME],
            places[plans.INGEST_TIME],
            places[plans.ROW_HASH],
            places.get(plans.ORDER),
            places.get(plans.EVENT_ID),
            empty.parts,
            [_PLAIN],
        ),
        layout,
    )
    at = model.index(_PLAIN) - 2  # before it stand the tag and the length of so few bytes
    head = np.frombuffer(model[:at], np.uint8)
    laid = np.tile(head, (rows.height, 1))
    for name, stamp in places.items():
        place = model.index(stamp.tobytes())
        laid[:, place : place + 8] = _whole(rows, name).view(np.uint8).reshape(-1, 8)
    plain = pack_rows(rows, layout.plan.plain)
    offsets = np.arange(rows.height + 1, dtype=np.int64) * len(head)
    parts = [
        binary_array(offsets, laid.reshape(-1)),
        _headers(np.frombuffer(plain.buffers()[1], np.int64)),
        plain,
    ]
    tail = pa.scalar(model[at + 2 + len(_PLAIN) :], pa.large_binary())
    return pc.binary_join_element_wise(*parts, tail, pa.scalar(b"", pa.large_binary()))


def _headers(offsets: Array) -> pa.Array:
    """Return what stands in MessagePack before bytes of these lengths."""
    lengths = np.diff(offsets)
    distinct, which = np.unique(lengths, return_inverse=True)
    return pa.array([_header(n) for n in distinct.tolist()], pa.large_binary()).take(pa.array(which))


def _header(length: int) -> bytes:
    for tag, size in ((b"\xc4", 1), (b"\xc5", 2), (b"\xc6", 4)):
        if length < 256**size:
            return tag + length.to_bytes(size, "big")
    raise ValueError(f"{length} bytes are too many for a row")


def _times(rows: pl.DataFrame) -> Array:
    return _whole(rows, plans.EVENT_TIME)


def _whole(rows: pl.DataFrame, name: str) -> Array:
    return np.ascontiguousarray(rows[name].to_physical().to_numpy(), "<i8")
