"""Distinct keys of many rows, and the place of each row's among them.

A hash table of a million keys is in no cache. So whole numbers that lie close together, as surrogate keys do,
are looked up in an array, and others in a table for each part of the rows, by the keys' hashes.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import polars.selectors as cs

from featurestore.aggregates.arrays import Array

_SPARSE = 4  # an array may be so many times as long as there are rows
_ROWS_AT_ONCE = 131_072
_WORDS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)


def coded(rows: pl.DataFrame) -> tuple[pl.DataFrame, Array]:
    """Return the distinct rows, in any order, and for each row its place among them.

    Null is a value, and NaN is null: no key is either, and Polars joins NaN to itself in some frames only.
    """
    rows = rows.with_columns(cs.float().fill_nan(None))
    if rows.width == 1 and rows.height:
        [column] = rows
        if column.dtype in _WORDS and not column.null_count():
            low, high = int(column.min()), int(column.max())  # type: ignore[arg-type]
            if high - low < _SPARSE * rows.height and high < 2**63:
                return _by_array(column, low, high)
    parts = 1 << (rows.height // _ROWS_AT_ONCE).bit_length()
    return _by_hash(rows) if parts == 1 else _by_parts(rows, min(parts, 256))


def _by_array(column: pl.Series, low: int, high: int) -> tuple[pl.DataFrame, Array]:
    numbers = column.to_numpy().astype(np.int64) - low
    seen = np.zeros(high - low + 1, np.bool_)
    seen[numbers] = True
    distinct = pl.Series(column.name, np.flatnonzero(seen) + low).cast(column.dtype)
    return distinct.to_frame(), (np.cumsum(seen) - 1)[numbers]


def _by_hash(rows: pl.DataFrame) -> tuple[pl.DataFrame, Array]:
    distinct = rows.unique()
    numbered = distinct.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("__place"))
    found = rows.join(numbered, on=rows.columns, how="left", nulls_equal=True, maintain_order="left")
    return distinct, found["__place"].to_numpy()


def _by_parts(rows: pl.DataFrame, parts: int) -> tuple[pl.DataFrame, Array]:
    part = (rows.hash_rows().to_numpy() >> np.uint64(56)).astype(np.uint8) % parts
    order = np.argsort(part, kind="stable")
    sorted_rows = rows[order]
    places = np.empty(rows.height, np.int64)
    found: list[pl.DataFrame] = []
    start = known = 0
    for size in np.bincount(part).tolist():
        distinct, place = _by_hash(sorted_rows.slice(start, size))
        places[order[start : start + size]] = place + known
        found.append(distinct)
        start, known = start + size, known + distinct.height
    return pl.concat(found), places
