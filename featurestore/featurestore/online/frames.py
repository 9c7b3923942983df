"""Transformed rows of a frame as what the kernel and the online writer take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl

from featurestore import plans
from featurestore.aggregates.arrays import Array, object_array
from featurestore.aggregates.carriers import carrier, carry_lists, carry_unscaled
from featurestore.aggregates.inputs import PartsPlan, RowParts
from featurestore.expressions.to_polars import to_polars
from featurestore.expressions.vectors import physical
from featurestore.kernel.rows import EntityRows, InputColumn
from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import Leaf
from featurestore.rows import vectors
from featurestore.rows.nulls import filled, present
from featurestore.types import DataType, Field

ROW_ORDER = [plans.EVENT_TIME, plans.ORDER, plans.INGEST_TIME, plans.ROW_HASH]
"""The columns that order an entity's rows, those that are there."""


def order_columns(frame: pl.DataFrame | pl.LazyFrame) -> list[str]:
    """Return the columns that order the rows of an entity in this frame."""
    present = set(frame.collect_schema().names())
    return [name for name in ROW_ORDER if name in present]


def row_parts(plan: PartsPlan, frame: pl.DataFrame) -> RowParts:
    """Return the parts of the frame's rows that aggregations read."""
    wanted = [to_polars(one).fill_null(False).alias(str(i)) for i, one in enumerate(plan.conditions)]
    conditions = frame.select(wanted) if wanted else frame
    return RowParts(
        tuple(_column(frame[name], kind) for name, kind in plan.columns),
        tuple(conditions[str(i)].to_numpy() for i in range(len(plan.conditions))),
        tuple(
            frame[by]
            .replace_strict(list(values), list(range(len(values))), default=-1, return_dtype=pl.Int16)
            .fill_null(-1)
            .to_numpy()
            for by, values in plan.categories
        ),
    )


def entity_rows(plan: PartsPlan, frame: pl.DataFrame, codes: Array, entities: int, inputs: int) -> EntityRows:
    """Return the frame's rows, which are sorted by entity code and row order, for the kernel.

    Ingest times and hashes may be absent where neither what was known nor another order is asked for.
    """
    parts = row_parts(plan, frame)
    size = frame.height
    columns = [InputColumn(*plan.input(i, parts, size)) for i in range(inputs)]
    return EntityRows(
        entities,
        codes,
        _whole(frame, plans.EVENT_TIME),
        _whole(frame, plans.INGEST_TIME) if plans.INGEST_TIME in frame.columns else np.zeros(size, np.int64),
        _whole(frame, plans.ROW_HASH) if plans.ROW_HASH in frame.columns else np.zeros(size, np.int64),
        _whole(frame, plans.ORDER) if plans.ORDER in frame.columns else None,
        _whole(frame, plans.EVENT_ID) if plans.EVENT_ID in frame.columns else None,
        np.arange(size),
        tuple(columns),
        _flags(frame) if plans.DELETED in frame.columns else None,
    )


@dataclass(frozen=True)
class EntityBatch:
    """Rows of many entities, grouped: entity i's rows are `starts[i]` to `starts[i + 1]`."""

    keys: list[bytes]
    shards: Array  # one per entity
    starts: Array
    rows: Leaf
    partitions: list[str]
    partition: Array  # one per row, into `partitions`
    sequence: Array


def entity_batch(layout: OnlineLayout, frame: pl.DataFrame) -> EntityBatch:
    """Return transformed rows grouped by shard and entity, in the order of rows."""
    frame = frame.sort([plans.SHARD, plans.KEY, *order_columns(frame)])
    keys = frame[plans.KEY]
    ends = np.flatnonzero((keys[1:] != keys[:-1]).to_numpy()) + 1
    starts = np.append(0, ends) if frame.height else ends
    partitions, partition = _codes(frame[plans.PARTITION])
    rows = Leaf(
        _whole(frame, plans.EVENT_TIME),
        _whole(frame, plans.INGEST_TIME),
        _whole(frame, plans.ROW_HASH),
        _whole(frame, plans.ORDER) if layout.has_order else None,
        _whole(frame, plans.EVENT_ID) if layout.has_ids else None,
        row_parts(layout.parts, frame),
        row_features(layout, frame),
        deleted=_flags(frame) if layout.has_deleted else None,
    )
    return EntityBatch(
        keys[starts].to_list(),
        frame[plans.SHARD].to_numpy()[starts],
        np.append(starts, frame.height),
        rows,
        partitions,
        partition,
        frame[plans.SEQUENCE].to_numpy(),
    )


def _codes(names: pl.Series) -> tuple[list[str], Array]:
    """Return the distinct names, and of each row which of them it has."""
    if len(names) and names.null_count() == 0 and (names == names[0]).all():
        return [names[0]], np.zeros(len(names), np.int64)
    codes = names.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode("encode")
    return codes.dictionary.to_pylist(), codes.indices.to_numpy()


def row_features(layout: OnlineLayout, frame: pl.DataFrame) -> list[bytes | None]:
    """Return each row's row-level features; none of a row that is deleted."""
    if not layout.has_plain:
        return []
    values = pack(frame, layout.plan.plain)
    if layout.has_deleted:
        for i in np.flatnonzero(_flags(frame)).tolist():
            values[i] = None
    return values


def pack(frame: pl.DataFrame, fields: Sequence[Field]) -> list[bytes | None]:
    """Return each row's features as bytes: a MessagePack array of their row values."""
    physical = pl.DataFrame([_packable(frame[f.name], f.type) for f in fields])
    return list(map(msgspec.msgpack.Encoder().encode, physical.iter_rows()))


def _packable(series: pl.Series, kind: DataType) -> pl.Series:
    return vectors.packed(series, kind) if kind.name == "vector" else physical(series)


def _column(series: pl.Series, kind: DataType) -> tuple[Array, Array]:
    dtype = carrier(kind)
    valid = present(series)
    if kind.name == "decimal":
        digits = [0 if number is None else number for number in series.to_physical().to_list()]
        carried = carry_unscaled(digits, kind)
        return (object_array(carried) if dtype == "object" else np.array(carried, dtype)), valid
    if kind.name == "list":
        return object_array(carry_lists(physical(series).to_list())), valid
    if dtype == "object":
        return object_array(_packable(series, kind).to_list()), valid
    target = {"<f8": pl.Float64, "<i8": pl.Int64, "<u8": pl.UInt64}[dtype]
    values = filled(physical(series).cast(target), 0).to_numpy()
    return (values + 0.0 if dtype == "<f8" else values), valid


def _flags(frame: pl.DataFrame) -> Array:
    return frame[plans.DELETED].to_numpy()


def _whole(frame: pl.DataFrame, name: str) -> Array:
    series = frame[name]
    if series.dtype == pl.Datetime:
        series = series.cast(pl.Int64) if series.dtype.time_unit == "us" else series.dt.epoch("us")  # type: ignore[attr-defined]
    return np.asarray(series.to_numpy(), "<i8")
