"""Row values and columns: instants in microseconds, dates in days, maps as dictionaries (see `types`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.types import DataType


def row_values_series(name: str, values: Sequence[Any], kind: DataType) -> pl.Series:
    """Return row values, None for null, as a column of their type."""
    if kind.name == "map":
        values = [None if value is None else _entries(value) for value in values]
    return pl.Series(name, values, physical(kind)).cast(kind.polars())


def series_row_values(series: pl.Series, kind: DataType) -> list[Any]:
    """Return a column of a type as row values, None for null."""
    items: list[Any] = series.cast(physical(kind)).to_list() if holds_time(kind) else series.to_list()
    if kind.name == "map":
        return [None if item is None else {e["key"]: e["value"] for e in item} for item in items]
    return items


def physical(kind: DataType) -> pl.DataType:
    """Return the Polars type of row values: that of the type, with numbers for instants and dates."""
    if kind.name == "timestamp":
        return pl.Int64()
    if kind.name == "date":
        return pl.Int32()
    if kind.name == "map":
        assert kind.key is not None
        assert kind.item is not None
        return pl.List(pl.Struct({"key": physical(kind.key), "value": physical(kind.item)}))
    return pl.List(physical(kind.item)) if kind.item is not None else kind.polars()


def holds_time(kind: DataType) -> bool:
    """Tell whether there are instants or dates among the values, which row values have as numbers."""
    return kind.name in ("timestamp", "date") or any(
        part is not None and holds_time(part) for part in (kind.key, kind.item)
    )


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


def _entries(value: dict[Any, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": item} for key, item in value.items()]
