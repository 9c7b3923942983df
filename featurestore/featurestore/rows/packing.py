"""Rows of columns as bytes: MessagePack arrays, made without a Python object per row.

The bytes are those that msgspec writes for the row's values, but that a float32 takes its own five bytes. The
kernel is compiled by numba when it is first used, and then kept on the disk where that can be written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from featurestore.rows.compiling import compiled
from featurestore.rows.hashing import text_buffers
from featurestore.types import DataType, Field

Bytes: TypeAlias = npt.NDArray[np.uint8]
Offsets: TypeAlias = npt.NDArray[np.int64]

_BOOL, _WHOLE, _DOUBLE, _SINGLE, _TEXT, _BINARY = range(6)
_BLOCK = 4096  # rows whose values stay in the cache
_HEADER = 9  # the most bytes of a number, or of what stands before text or before the values
_KINDS = {"bool": _BOOL, "float64": _DOUBLE, "float32": _SINGLE, "timestamp": _WHOLE, "date": _WHOLE}
_KINDS |= {"string": _TEXT, "json": _TEXT, "binary": _BINARY}


def is_packable(kind: DataType) -> bool:
    """Tell whether columns of a type are packed here."""
    return _kind(kind) is not None


def pack_rows(frame: pl.DataFrame, fields: Sequence[Field]) -> pa.LargeBinaryArray:
    """Return each row's values of the fields, all of them packable, as the bytes of one array."""
    kernel = _kernel()
    rows = frame.height
    kinds = np.array([_kind(field.type) for field in fields], np.int64)
    columns = [_column(frame[field.name], kind) for field, kind in zip(fields, kinds.tolist(), strict=True)]
    text = np.concatenate([np.zeros(1, np.uint8), *(c.text for c in columns if c.text is not None)])
    begins = np.cumsum([1, *(0 if c.text is None else len(c.text) for c in columns)])
    out = np.empty(rows * _HEADER * (len(fields) + 1) + len(text), np.uint8)
    offsets = np.zeros(rows + 1, np.int64)
    words = np.empty((len(fields), 2, _BLOCK), np.uint64)  # of text, where it begins, and its length
    missing = np.zeros((len(fields), _BLOCK), bool)
    for start in range(0, rows, _BLOCK):
        size = min(_BLOCK, rows - start)
        for number, column in enumerate(columns):
            words[number, 0, :size] = column.words[start : start + size]
            if column.text is not None:
                words[number, 1, :size] = column.words[start + 1 : start + size + 1]
                words[number, 1, :size] -= words[number, 0, :size]
                words[number, 0, :size] += np.uint64(begins[number])
            if column.missing is not None:
                missing[number, :size] = column.missing[start : start + size]
        kernel(kinds, words, missing, text, out, offsets[start : start + size + 1])
    return binary_array(offsets, out)


def binary_array(offsets: Offsets, data: Bytes) -> pa.LargeBinaryArray:
    """Return the slices of some bytes, `data[offsets[i]:offsets[i + 1]]`, without a copy."""
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _kind(kind: DataType) -> int | None:
    return _WHOLE if kind.is_integer and kind.name != "uint64" else _KINDS.get(kind.name)


@dataclass(frozen=True)
class _Column:
    """Numbers as bits, those of a null arbitrary, of a float32 in the lower half; or text and its offsets."""

    words: Any
    missing: Any = None
    text: Bytes | None = None


def _column(series: pl.Series, kind: int) -> _Column:
    if kind in (_TEXT, _BINARY):
        missing = series.is_null().to_numpy() if series.null_count() else None
        offsets, text = text_buffers(series)
        return _Column((offsets - offsets[0]).view(np.uint64), missing, text[offsets[0] : offsets[-1]])
    # By Arrow's buffers: a method of a Polars series takes as long as packing some thousand values.
    array = series.to_arrow()
    validity, data = array.buffers()
    missing = None if validity is None else ~_flags(validity, array)
    if kind == _BOOL:
        return _Column(_flags(data, array), missing)
    if pa.types.is_temporal(array.type):
        dtype = np.dtype(f"i{array.type.bit_width // 8}")
    else:
        dtype = np.dtype(array.type.to_pandas_dtype())
    values = np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)
    if kind == _WHOLE:
        values = values.astype(np.int64, copy=False)
    return _Column(values.view(np.uint32 if kind == _SINGLE else np.uint64), missing)


def _flags(bits: pa.Buffer, array: pa.Array) -> Any:
    """Return the flags that an array has in a buffer of bits."""
    start, skipped = divmod(array.offset, 8)
    packed = np.frombuffer(bits, np.uint8)[start:]
    return np.unpackbits(packed, count=skipped + len(array), bitorder="little")[skipped:].view(bool)


@cache
def _kernel() -> Callable[..., None]:
    return compiled(_pack)


def _pack(kinds: Any, words: Any, missing: Any, text: Any, out: Any, offsets: Any) -> None:
    """Write rows to `out` from `offsets[0]` on, and where each ends: tags are those of MessagePack."""
    at: Any = offsets[0]
    columns = len(kinds)
    for row in range(len(offsets) - 1):
        offsets[row] = at
        if columns < 16:
            out[at] = 0x90 | columns
            at += 1
        else:
            out[at] = 0xDC
            out[at + 1] = columns >> 8
            out[at + 2] = columns & 0xFF
            at += 3
        for column in range(columns):
            kind, word = kinds[column], words[column, 0, row]
            tag: Any = 0
            size: Any = 8
            if missing[column, row]:
                tag, size = 0xC0, 0
            elif kind == 0:
                tag, size = 0xC2 + np.int64(word), 0
            elif kind == 2:
                tag = 0xCB
            elif kind == 3:
                tag, size = 0xCA, 4
            elif kind == 1:
                value = np.int64(word)
                if -32 <= value < 128:
                    tag, size = value & 0xFF, 0
                elif value >= 0:
                    if value < 1 << 8:
                        tag, size = 0xCC, 1
                    elif value < 1 << 16:
                        tag, size = 0xCD, 2
                    elif value < 1 << 32:
                        tag, size = 0xCE, 4
                    else:
                        tag = 0xCF
                elif value >= -(1 << 7):
                    tag, size = 0xD0, 1
                elif value >= -(1 << 15):
                    tag, size = 0xD1, 2
                elif value >= -(1 << 31):
                    tag, size = 0xD2, 4
                else:
                    tag = 0xD3
            else:
                begin, length = np.int64(word), np.int64(words[column, 1, row])
                word = np.uint64(length)
                if kind == 4 and length < 32:
                    tag, size = 0xA0 | length, 0
                elif length < 1 << 8:
                    tag, size = 0xD9 if kind == 4 else 0xC4, 1
                elif length < 1 << 16:
                    tag, size = 0xDA if kind == 4 else 0xC5, 2
                else:
                    tag, size = 0xDB if kind == 4 else 0xC6, 4
            out[at] = tag
            for place in range(size):  # the most significant byte first
                out[at + 1 + place] = (word >> np.uint64(8 * (size - 1 - place))) & np.uint64(0xFF)
            at += 1 + size
            if kind >= 4 and not missing[column, row]:
                for place in range(length):
                    out[at + place] = text[begin + place]
                at += length
    offsets[len(offsets) - 1] = at
