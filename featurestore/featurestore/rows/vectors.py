"""Values of type `vector<item,n>`: n floats as a list (a row value), or as raw little-endian bytes.

The bytes are what online rows and tiles hold: 4 or 8 for each item, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.types import DataType

if TYPE_CHECKING:
    import polars as pl


def _numbers(kind: DataType) -> str:
    return "<f4" if str(kind.item) == "float32" else "<f8"


def pack(values: Sequence[float], kind: DataType) -> bytes:
    """Return the bytes of a vector's items."""
    return np.array(values, _numbers(kind)).tobytes()


def unpack(data: bytes, kind: DataType) -> list[float]:
    """Return the items that `pack` wrote."""
    items: list[float] = np.frombuffer(data, _numbers(kind)).tolist()
    return items


def packed(series: pl.Series, kind: DataType) -> pl.Series:
    """Return a column of vectors as a column of their bytes, null where null."""
    import polars as pl

    rows = matrix(series, kind).astype(_numbers(kind))
    made = pl.Series(series.name, [row.tobytes() for row in rows], dtype=pl.Binary)
    return made.set(series.is_null(), None) if series.null_count() else made


def matrix(series: pl.Series, kind: DataType) -> Any:
    """Return a column of vectors as a numpy array of a row each; what stands for a null is arbitrary."""
    return series.to_numpy() if len(series) else np.empty((0, kind.size), _numbers(kind))


def why_not(values: Sequence[Any], kind: DataType) -> str:
    """Return why a list is no vector of the type: the number of its items, or an item that is no number."""
    if len(values) != kind.size:
        return f"it has {len(values)} items"
    for place, value in enumerate(values):
        if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"item {place + 1} is {'null' if value is None else repr(value)}"
    return f"an item is out of the range of {kind.item}"
