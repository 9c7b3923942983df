"""Casts between the types of columns and those that Delta has.

Delta has no unsigned and no fixed-size types. An unsigned integer is stored in the next wider signed
one, uint64 as decimal(20,0); fixed-size binary and lists lose their size. The caller's schema restores them.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from featurestore.types import Field

_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}


def delta_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which Delta stores `kind` without loss."""
    if kind in _WIDER:
        return _WIDER[kind]
    if pa.types.is_dictionary(kind):
        return delta_type(kind.value_type)
    if pa.types.is_large_list(kind):
        return pa.large_list(delta_type(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(delta_type(kind.value_type))
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    return kind


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with every column in a type that Delta has, all nullable, without metadata."""
    return pa.schema([(field.name, delta_type(field.type)) for field in schema])


def to_delta(rows: pa.Table) -> pa.Table:
    """Return the table in its `delta_schema`."""
    return rows.cast(delta_schema(rows.schema))


def to_frame(rows: pa.Table | pl.DataFrame) -> tuple[pl.DataFrame, pa.Schema]:
    """Return what `to_delta` does as a frame, and its schema; a frame that has it already is not copied."""
    if isinstance(rows, pl.DataFrame):
        schema = rows.clear().to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        if delta_schema(schema) == schema.remove_metadata():
            return rows, schema
    data = to_delta(to_table(rows))
    frame = pl.from_arrow(data)
    assert isinstance(frame, pl.DataFrame)
    return frame, data.schema


def to_table(rows: pa.Table | pl.DataFrame) -> pa.Table:
    """Return a frame as a table; a table as it is."""
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest()) if isinstance(rows, pl.DataFrame) else rows


def cast_back(rows: pa.Table, schema: Sequence[Field]) -> pa.Table:
    """Return the table with the columns that `schema` names in their declared types; others as they are."""
    declared = {field.name: field.type.arrow() for field in schema}
    return rows.cast(pa.schema([(field.name, declared.get(field.name, field.type)) for field in rows.schema]))
