"""Row hashes, event ids and order ranks of whole columns; `featurestore.rows.identity` defines them.

Each column is a pass of numpy over 64-bit words. Text is read eight bytes at a time out of Arrow's buffer,
for all rows at once, so that no Python object is made but for values of more than 64 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

from featurestore.rows.identity import FIRST, GOLDEN, LONG, LOWEST, NULL, SECOND, SEED
from featurestore.rows.nulls import filled
from featurestore.rows.vectors import matrix
from featurestore.types import DataType, Field

Words: TypeAlias = npt.NDArray[np.uint64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_GOLDEN, _FIRST, _SECOND = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND)
_SEED, _NULL = np.uint64(SEED), np.uint64(NULL)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_QUIET_NAN = np.uint64(0x7FF8000000000000)
_TAIL = np.array([2**64 - 1, *((1 << 8 * n) - 1 for n in range(1, 8))], np.uint64)
# Of xxh3's default secret, bytes 24 to 31 and 32 to 39 together, and 40 to 47 and 48 to 55.
_FLIP_LOW, _FLIP_HIGH = np.uint64(0x6782737BEA4239B9), np.uint64(0xAF56BC3B0996523A)
_AVALANCHE = np.uint64(0x165667919E3779F9)
_INLINE = 12
"""Text of so many bytes lies in an Arrow view."""

_BLOCK = 16_384  # rows whose words stay in the second-level cache; measured against 4 Ki to 256 Ki


def row_hash(frame: pl.DataFrame, schema: Sequence[Field]) -> pl.Series:
    """Return the int64 hash of each row's typed columns, taken in the order of their names."""
    result = np.full(frame.height, _SEED, np.uint64)
    for field in sorted(schema, key=lambda field: field.name):
        series = frame[field.name]
        _absorb(result, words(series, field.type), nulls(series))
    return pl.Series("row_hash", result.view(np.int64))


def event_id(frame: pl.DataFrame, columns: Sequence[str], kinds: Sequence[DataType]) -> pl.Series:
    """Return the int64 id of each row's event; null where a part is null."""
    from featurestore.rows.keys import canonical

    data = canonical([frame[column] for column in columns], kinds)
    result = pl.Series("event_id", digests(data).view(np.int64))
    for column in columns:
        if frame[column].null_count():
            result = result.zip_with(frame[column].is_not_null(), pl.Series([None], dtype=pl.Int64))
    return result


def of_items(hashes: pl.Series, numbers: pl.Series) -> pl.Series:
    """Return the row hashes or event ids of items of exploded rows, by those of the rows."""
    mixed = _mixed(hashes.fill_null(0).to_numpy().view(np.uint64) ^ numbers.to_numpy().view(np.uint64))
    result = pl.Series(hashes.name, mixed.view(np.int64))
    return result.set(hashes.is_null(), None) if hashes.null_count() else result


def order_rank(series: pl.Series, kind: DataType) -> pl.Series:
    """Return the int64 rank of each value, in the order of the values, null lowest."""
    if kind.name == "decimal":
        rank = _decimal_halves(series)[0].view(np.int64)
    else:
        rank = words(series, kind).view(np.int64)
        if kind.is_float:
            rank = np.where(rank < 0, rank ^ np.int64(2**63 - 1), rank)
        elif kind.name == "uint64":
            rank = rank ^ np.int64(LOWEST)
    missing = nulls(series)
    return pl.Series("order", rank if missing is None else np.where(missing, np.int64(LOWEST), rank))


def nulls(series: pl.Series) -> Mask | None:
    """Return where the values are null, or None where none is."""
    return series.is_null().to_numpy() if series.null_count() else None


def words(series: pl.Series, kind: DataType) -> Words:
    """Return the word of each value; that of a null is arbitrary."""
    if kind.is_float:
        doubles = np.ascontiguousarray(filled(series.cast(pl.Float64), 0.0).to_numpy()) + 0.0
        bits = doubles.view(np.uint64)
        strange = np.isnan(doubles)
        return np.where(strange, _QUIET_NAN, bits) if strange.any() else bits
    if kind.name in ("string", "binary", "json"):
        short = _short_words(series)
        return _bytes_words(*text_buffers(series)) if short is None else short
    if kind.name == "decimal":
        low, high = _decimal_halves(series)
        return _mixed(_mixed(_SEED ^ low) ^ high)
    if kind.name == "list":
        return _list_words(series, kind)
    if kind.name == "vector":
        doubles = matrix(series, kind).astype("<f8")
        doubles += 0.0
        bits = doubles.view("<u8")
        bits[np.isnan(doubles)] = _QUIET_NAN
        return _bytes_words(np.arange(len(series) + 1) * kind.size * 8, bits.reshape(-1).view(np.uint8))
    if kind.name == "uint64":
        return np.ascontiguousarray(series.fill_null(0).to_numpy())
    whole = filled(series.cast(pl.Int64), 0).to_numpy()
    return np.ascontiguousarray(whole).view(np.uint64)


def text_buffers(series: pl.Series) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the offsets (one more than rows) and the bytes of a column of text or binary."""
    wanted = pa.large_string() if series.dtype == pl.String else pa.large_binary()
    array = series.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(wanted)
    buffers = array.buffers()
    offsets = np.frombuffer(buffers[1], np.int64, len(array) + 1, array.offset * 8)
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.empty(0, np.uint8)
    return offsets, data


def digests(data: pa.LargeBinaryArray) -> Words:
    """Return the xxh3-64 of each value; those of nine bytes, as all keys of one number are, together."""
    offsets = np.frombuffer(data.buffers()[1], np.int64, len(data) + 1, data.offset * 8)
    if len(data) and (np.diff(offsets) == 9).all():
        rows = np.frombuffer(data.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, 9)
        return _digests_of_nine(rows)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, data.to_pylist()), np.uint64, len(data))


def _digests_of_nine(rows: npt.NDArray[np.uint8]) -> Words:
    """Return the xxh3-64 of rows of nine bytes: XXH3_len_9to16_64b of xxhash.h, without a seed."""
    result = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        low = np.ascontiguousarray(block[:, :8]).view("<u8").reshape(-1) ^ _FLIP_LOW
        high = np.ascontiguousarray(block[:, 1:]).view("<u8").reshape(-1) ^ _FLIP_HIGH
        made = _folded(low, high)
        made += low.byteswap()
        made += high
        made += np.uint64(9)
        made ^= made >> np.uint64(37)
        made *= _AVALANCHE
        made ^= made >> np.uint64(32)
        result[start : start + _BLOCK] = made
    return result


def _folded(one: Words, other: Words) -> Words:
    """Return the lower half of a 128-bit product, exclusive-or its upper half."""
    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    low, high, other_low, other_high = one & mask, one >> half, other & mask, other >> half
    lowest, middle = low * other_low, high * other_low
    cross = (lowest >> half) + (middle & mask) + low * other_high
    upper = high * other_high
    upper += middle >> half
    upper += cross >> half
    upper ^= cross << half
    upper ^= lowest & mask
    return upper


def _mix(x: Words, scratch: Words) -> None:
    x += _GOLDEN
    np.right_shift(x, _30, out=scratch)
    x ^= scratch
    x *= _FIRST
    np.right_shift(x, _27, out=scratch)
    x ^= scratch
    x *= _SECOND
    np.right_shift(x, _31, out=scratch)
    x ^= scratch


def _mixed(x: Words) -> Words:
    _mix(x, np.empty_like(x))
    return x


def _absorb(result: Words, values: Words, missing: Mask | None) -> None:
    scratch = np.empty(min(_BLOCK, len(result)), np.uint64)
    for start in range(0, len(result), _BLOCK):
        block = result[start : start + _BLOCK]
        if missing is None:
            block ^= values[start : start + _BLOCK]
        else:
            block[:] = np.where(
                missing[start : start + _BLOCK], block + _NULL, block ^ values[start : start + _BLOCK]
            )
        _mix(block, scratch[: len(block)])


def _short_words(series: pl.Series) -> Words | None:
    """Return the words of text or binary of twelve bytes at most, None where there are longer ones.

    Arrow's views hold such values in themselves: four bytes of length, then theirs, padded with zeros.
    """
    array = series.to_arrow(compat_level=pl.CompatLevel.newest())
    if not len(array):
        return np.zeros(0, np.uint64)
    if not (pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type)):
        return None  # categories are a dictionary's
    views = array.buffers()[1]
    parts = np.frombuffer(views, "<u4", 4 * len(array), array.offset * 16).reshape(-1, 4)
    lengths = parts[:, 0]
    longest = int(lengths.max())
    if longest > _INLINE:
        return None
    result: Words = _mixed(_SEED ^ np.arange(_INLINE + 1, dtype=np.uint64))[lengths]
    eights: Any = np.ndarray((len(array),), "<u8", views, array.offset * 16 + 4, (16,))
    if lengths.all():
        _absorb(result, eights, None)
    else:
        rows = np.flatnonzero(lengths)
        result[rows] = _mixed(result[rows] ^ eights[rows])
    if longest > 8:
        rows = np.flatnonzero(lengths > 8)
        result[rows] = _mixed(result[rows] ^ parts[rows, 3])
    return result


def _bytes_words(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> Words:
    lengths = np.diff(offsets)
    result = _mixed(_SEED ^ lengths.view(np.uint64))
    if not len(lengths):
        return result
    long = lengths > LONG
    if long.any():
        view = memoryview(data.data)
        rows = np.flatnonzero(long)
        spans = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
        digests = np.fromiter(
            (xxhash.xxh3_64_intdigest(view[low:high]) for low, high in spans), np.uint64, len(rows)
        )
        result[rows] = _mixed(result[rows] ^ digests)
        lengths = np.where(long, 0, lengths)
    first, last = int(offsets[0]), int(offsets[-1])
    padded = np.zeros(last - first + 8, np.uint8)
    padded[:-8] = data[first:last]
    eights: Any = np.ndarray((last - first + 1,), "<u8", padded, strides=(1,))
    starts = offsets[:-1] - first
    rows = np.flatnonzero(lengths)
    for done in range(0, int(lengths.max()), 8):
        if done:
            rows = rows[lengths[rows] > done]
        everywhere = len(rows) == len(lengths)
        begin = starts if everywhere else starts[rows]
        left = (lengths if everywhere else lengths[rows]) - done
        eight = eights[begin + done] & _TAIL[np.where(left < 8, left, 0)]
        if everywhere:
            _absorb(result, eight, None)
        else:
            eight ^= result[rows]
            result[rows] = _mixed(eight)
    return result


def _decimal_halves(series: pl.Series) -> tuple[Words, Words]:
    array = series.to_arrow(compat_level=pl.CompatLevel.oldest())
    halves = np.frombuffer(array.buffers()[1], "<u8", 2 * len(array), array.offset * 16).reshape(-1, 2)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def _list_words(series: pl.Series, kind: DataType) -> Words:
    assert kind.item is not None
    lengths = series.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    result = _mixed(_SEED ^ lengths.astype(np.uint64))
    items = series.filter(pl.Series(lengths > 0)).explode()
    values, missing = words(items, kind.item), nulls(items)
    starts = np.cumsum(lengths) - lengths
    rows = np.flatnonzero(lengths)
    for place in range(int(lengths.max(initial=0))):
        rows = rows[lengths[rows] > place]
        at = starts[rows] + place
        block = result[rows]
        _absorb(block, values[at], None if missing is None else missing[at])
        result[rows] = block
    return result
