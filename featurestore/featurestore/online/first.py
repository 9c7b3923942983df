"""The first rows of shards that nobody has written yet: whole columns to entities' state, at once.

It is for sets of row-level features alone, and for entities with one row. Their leaves differ in a few fields
of eight bytes and in the features, so they are laid into copies of a leaf that `nodes.encode` made.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import plans
from featurestore.aggregates.arrays import Array
from featurestore.online import nodes
from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import Leaf
from featurestore.rows.compiling import has_compiler
from featurestore.rows.packing import binary_array, is_packable, pack_rows

_STAMP = 0x1122334455667700
"""Stands for a value of eight bytes in a leaf that is copied; the next ones for the next values."""

_PLAIN = bytes(range(1, 32))


_TOGETHER = 16_384  # rows that are laid, or written, at once
_AT_ONCE = 2


@dataclass(frozen=True)
class Block:
    """Entities of one shard, their leaves, and the event time of each one's row."""

    shard: int
    keys: pa.LargeBinaryArray
    leaves: pa.LargeBinaryArray
    newest: list[int]


def fits(layout: OnlineLayout) -> bool:
    """Tell whether the set's leaves can be laid here."""
    return (
        has_compiler()
        and not layout.aggregates.inputs
        and layout.has_plain
        and not layout.has_deleted
        and all(is_packable(field.type) for field in layout.plan.plain)
    )


class FirstRows:
    """The rows of shards, of those named, whose entities have one row each, and their leaves."""

    def __init__(self, layout: OnlineLayout, rows: pl.DataFrame, shards: Collection[int]) -> None:
        several = rows.filter(rows[plans.KEY].is_duplicated())[plans.SHARD].unique().to_list()
        wanted = rows[plans.SHARD].is_in(list(shards)) & ~rows[plans.SHARD].is_in(several)
        if not wanted.all():  # else no copy of all columns
            rows = rows.filter(wanted)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            made = pool.map(partial(_leaves, layout), rows.iter_slices(_TOGETHER))
            self._leaves = pa.concat_arrays([pa.array([], pa.large_binary()), *made])
        self._keys = rows[plans.KEY].to_arrow().cast(pa.large_binary())
        self._times = _whole(rows, plans.EVENT_TIME)
        self._shards = rows[plans.SHARD].to_numpy()
        self._order = np.argsort(self._shards, kind="stable")

    def portions(self) -> list[Array]:
        """Return places of rows, some thousand in each portion: whole shards, in order."""
        shard = self._shards[self._order]
        found, start = [], 0
        for end in [*(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(shard)]:
            if end - start >= _TOGETHER or start < end == len(shard):
                found.append(self._order[start:end])
                start = end
        return found

    def blocks(self, portion: Array) -> list[Block]:
        """Return the entities of a portion, a block for each shard."""
        place = pa.array(portion)
        keys, leaves, shard = self._keys.take(place), self._leaves.take(place), self._shards[portion]
        newest = self._times[portion].tolist()
        bounds = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(shard)]
        return [
            Block(int(shard[start]), keys[start:end], leaves[start:end], newest[start:end])
            for start, end in pairwise(bounds)
        ]


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


def _whole(rows: pl.DataFrame, name: str) -> Array:
    return np.ascontiguousarray(rows[name].to_physical().to_numpy(), "<i8")
