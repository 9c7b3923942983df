"""Row values and columns: instants in microseconds, dates in days, maps as dictionaries (see `types`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.expressions.vectors import column, physical
from featurestore.types import DataType


def row_values_series(name: str, values: Sequence[Any], kind: DataType) -> pl.Series:
    """Return row values, None for null, as a column of their type."""
    if kind.key is None or kind.item is None:
        return column(list(values), kind).alias(name)
    keys = [None if value is None else list(value) for value in values]
    items = [None if value is None else list(value.values()) for value in values]
    entries = pl.DataFrame(
        {
            "key": column(keys, DataType("list", item=kind.key)),
            "value": column(items, DataType("list", item=kind.item)),
        }
    ).with_row_index("__row")
    there = entries.filter(pl.col("key").list.len() > 0).explode("key", "value")
    made = there.group_by("__row", maintain_order=True).agg(pl.struct("key", "value").alias(name))
    return entries.select("__row").join(made, on="__row", how="left", maintain_order="left")[name]


def series_row_values(series: pl.Series, kind: DataType) -> list[Any]:
    """Return a column of a type as row values, None for null."""
    if kind.key is None or kind.item is None:
        return physical(series).to_list()
    lists = (series.list.eval(pl.element().struct.field(name)) for name in ("key", "value"))
    keys, items = (physical(part).to_list() for part in lists)
    return [None if k is None else dict(zip(k, i, strict=True)) for k, i in zip(keys, items, strict=True)]


def is_map(dtype: pl.DataType) -> bool:
    """Tell whether a feature's column holds maps: lists of entries, which no column of a source has."""
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    return isinstance(inner, pl.Struct) and [field.name for field in inner.fields] == ["key", "value"]


def to_arrow(frame: pl.DataFrame, features: Sequence[str]) -> pa.Table:
    """Return the frame as an Arrow table whose maps, among these features, are Arrow's."""
    table = frame.to_arrow()
    for name in features:
        if is_map(frame.schema[name]):
            place = table.column_names.index(name)
            table = table.set_column(place, name, _arrow_maps(table.column(place).combine_chunks()))
    return table


def _arrow_maps(lists: pa.Array) -> pa.Array:
    entries = lists.flatten()
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    ends = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes).cast(pa.int32())])
    return pa.MapArray.from_arrays(ends, entries.field("key"), entries.field("value"), mask=lists.is_null())
