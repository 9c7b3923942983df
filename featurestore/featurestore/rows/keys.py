"""Canonical keys and shards of whole columns; `featurestore.keys` defines both (DESIGN 3.12, 7)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.keys import SHARDS, cast_key, encode_key
from featurestore.plans import KeyColumn
from featurestore.rows.hashing import digests, text_buffers, words
from featurestore.rows.nulls import absent, filled
from featurestore.types import DataType

_TAGS = {"timestamp": "t", "date": "d", "bool": "?"}


@dataclass(frozen=True)
class Keys:
    """Canonical keys: `key` (binary) and `shard` (int16) are null where a row belongs to no entity.

    `uncastable` is true where that is because a value is none of the key's type, not because it is missing.
    """

    key: pl.Series
    shard: pl.Series
    uncastable: pl.Series


def encode_keys(frame: pl.DataFrame, keys: Sequence[KeyColumn], columns: Sequence[str]) -> pl.Series:
    """Return each row's canonical key from `columns`, one per entity; null where a part is none."""
    return encode(frame, keys, columns).key


def encode(frame: pl.DataFrame, keys: Sequence[KeyColumn], columns: Sequence[str]) -> Keys:
    """Return each row's canonical key and shard. A NaN is a missing key, as null is."""
    missing = pl.Series("missing", np.zeros(frame.height, np.bool_))
    uncastable = missing.clone()
    parts = []
    for key, column in zip(keys, columns, strict=True):
        values = frame[column]
        missed = absent(values)
        if values.dtype.is_float():
            missed |= filled(values.is_nan(), False)
        part = cast_keys(values, key.type)
        missing |= missed
        uncastable |= absent(part) & ~missed
        parts.append(part)
    uncastable &= ~missing
    present = ~(missing | uncastable)
    kept = canonical([part.filter(present) for part in parts], [key.type for key in keys])
    data = pl.Series("key", pl.from_arrow(kept), dtype=pl.Binary)
    shard = pl.Series("shard", (digests(kept) & np.uint64(SHARDS - 1)).astype(np.int16))
    if len(data) < frame.height:
        place = present.cum_sum().cast(pl.Int64) - 1
        place = place.zip_with(present, pl.Series([None], dtype=pl.Int64))
        data, shard = data.gather(place), shard.gather(place)
    return Keys(data.alias("key"), shard.alias("shard"), uncastable)


def canonical(parts: Sequence[pl.Series], kinds: Sequence[DataType]) -> pa.LargeBinaryArray:
    """Return what `featurestore.keys.encode_key` does, for columns of typed values.

    The bytes of a row with a null part are arbitrary.
    """
    pieces: list[pa.Array] = []
    for part, kind in zip(parts, kinds, strict=True):
        if kind.name in ("string", "binary"):
            text = filled(part, "" if kind.name == "string" else b"")
            offsets, _ = text_buffers(text)
            header = np.empty((len(part), 5), np.uint8)
            header[:, 0] = ord("s" if kind.name == "string" else "b")
            header[:, 1:] = np.diff(offsets).astype(">u4").view(np.uint8).reshape(-1, 4)
            bytes_ = text.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_binary())
            pieces += [_fixed(header), bytes_]
        else:
            value = words(part, kind)
            fixed = np.empty((len(part), 9), np.uint8)
            fixed[:, 0] = ord(_TAGS.get(kind.name, "i"))
            if kind.name == "uint64":
                fixed[value >= np.uint64(2**63), 0] = ord("u")
            fixed[:, 1:] = value.astype(">u8").view(np.uint8).reshape(-1, 8)
            pieces.append(_fixed(fixed))
    if len(pieces) == 1:
        return pieces[0]
    return pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))


def _fixed(rows: npt.NDArray[np.uint8]) -> pa.LargeBinaryArray:
    count, width = rows.shape
    offsets = np.arange(count + 1, dtype=np.int64) * width
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    )


def cast_keys(values: pl.Series, kind: DataType) -> pl.Series:
    """Return the values as the key's type, null where `cast_key` refuses them."""
    wanted = kind.polars()
    if values.dtype == wanted:
        return values
    if kind.is_integer and values.dtype.is_integer():
        return values.cast(wanted, strict=False)
    if kind.is_integer and values.dtype.is_float():
        whole = values.cast(pl.Float64)
        kept = whole.set(
            ~(whole == whole.floor()).fill_null(False) | whole.is_infinite().fill_null(False), None
        )
        return kept.cast(wanted, strict=False)
    distinct = values.unique()
    return pl.Series(
        values.name,
        values.replace_strict(
            distinct,
            pl.Series([_cast_one(value, kind) for value in distinct], dtype=wanted),
            return_dtype=wanted,
        ),
    )


def _cast_one(value: Any, kind: DataType) -> Any:
    try:
        cast = cast_key(value, kind)
        encode_key([cast], [kind])
    except (ValueError, OverflowError, struct.error):
        return None
    return cast
