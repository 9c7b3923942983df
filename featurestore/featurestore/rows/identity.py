"""Hashes and ranks of typed values, one at a time: the definitions, stable for ever (DESIGN 3.2, 3.8).

All arithmetic is on unsigned 64-bit integers, modulo 2**64. `mix` is one step of splitmix64
(Steele, Lea and Flood 2014; the constants are those of Vigna's splitmix64.c)::

    mix(x):  x += 0x9E3779B97F4A7C15
             x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9
             x = (x ^ x >> 27) * 0x94D049BB133111EB
             return x ^ x >> 31

The **row hash** starts as SEED and takes the columns in the order of their names: a value changes it to
`mix(hash ^ word(value))`, a null to `mix(hash + NULL)`. It is read as a signed integer. The word of a value:

- integers, bool, date (days), timestamp (microseconds): the value in two's complement;
- floats: the bits of the value as float64, -0.0 as 0.0 and every NaN as 0x7FF8000000000000;
- decimals: the unscaled value in 128-bit two's complement, `mix(mix(SEED ^ low) ^ high)`;
- text (UTF-8), JSON (its canonical text) and binary of n bytes: starts as `mix(SEED ^ n)`; up to 64 bytes
  each eight, little-endian, the last padded with zeros, change it to `mix(word ^ eight)`; longer values do so
  once, with their xxh3-64;
- lists of n items: starts as `mix(SEED ^ n)`, then as a row does, item by item;
- vectors: as binary of their items' bits as float64 (see floats), eight little-endian bytes each.

Rows that `explode` makes of one take their item's number, from 0: with h the row's hash, that of item n is
`mix(h ^ n)`, and so is the event id; explode after explode does so again.

The **event id** is the xxh3-64 of the id columns' canonical bytes (`featurestore.keys.encode_key`), signed.
The **order rank** keeps the order of the source's `order_by` column in an int64; null comes first.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Context, Decimal
from typing import Any

import xxhash

from featurestore.errors import SpecError
from featurestore.keys import encode_key
from featurestore.types import DataType, Field

SEED = 0x243F6A8885A308D3  # the first digits of pi
NULL = 0x13198A2E03707344  # and the next
GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
LONG = 64
"""Text of more bytes than this enters a hash as its xxh3-64."""

LOWEST = -(2**63)
"""The rank of null."""

_MASK = 2**64 - 1
_DOUBLE = struct.Struct("<d")
_WORD = struct.Struct("<Q")
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EXACT = Context(prec=60)


def mix(x: int) -> int:
    """Return one step of splitmix64."""
    x = (x + GOLDEN) & _MASK
    x = (x ^ x >> 30) * FIRST & _MASK
    x = (x ^ x >> 27) * SECOND & _MASK
    return x ^ x >> 31


def signed(x: int) -> int:
    """Return an unsigned 64-bit integer as the signed one of the same bits."""
    return x - 2**64 if x >= 2**63 else x


def double_bits(value: float) -> int:
    """Return the bits of a float64, one pattern for each of zero and NaN."""
    if value != value:
        return 0x7FF8000000000000
    bits: int = _WORD.unpack(_DOUBLE.pack(value + 0.0))[0]
    return bits


def word(value: Any, kind: DataType) -> int:
    """Return the 64-bit word of a value that is not null (a row value: dates in days, instants in µs)."""
    if kind.is_float:
        return double_bits(value)
    if kind.name in ("string", "binary", "json"):
        return _bytes_word(value.encode() if isinstance(value, str) else value)
    if kind.name == "decimal":
        unscaled = int(Decimal(value).scaleb(kind.scale, _EXACT))
        return mix(mix(SEED ^ unscaled & _MASK) ^ unscaled >> 64 & _MASK)
    if kind.name == "list":
        assert kind.item is not None
        return fold(mix(SEED ^ len(value)), value, [kind.item] * len(value))
    if kind.name == "vector":
        return _bytes_word(b"".join(_WORD.pack(double_bits(item)) for item in value))
    return int(value) & _MASK


def _bytes_word(data: bytes) -> int:
    result = mix(SEED ^ len(data))
    if len(data) > LONG:
        return mix(result ^ xxhash.xxh3_64_intdigest(data))
    for start in range(0, len(data), 8):
        result = mix(result ^ int.from_bytes(data[start : start + 8], "little"))
    return result


def fold(start: int, values: Sequence[Any], kinds: Sequence[DataType]) -> int:
    """Return the hash of a sequence of values, nulls included."""
    for value, kind in zip(values, kinds, strict=True):
        start = mix((start + NULL) & _MASK) if value is None else mix(start ^ word(value, kind))
    return start


def row_hash(row: Mapping[str, Any], schema: Sequence[Field]) -> int:
    """Return the row hash of one row of typed values."""
    fields = sorted(schema, key=lambda field: field.name)
    return signed(fold(SEED, [row[field.name] for field in fields], [field.type for field in fields]))


def event_id(values: Sequence[Any], kinds: Sequence[DataType]) -> int | None:
    """Return the id of an event by the values of its id columns; None where one is null."""
    if any(value is None for value in values):
        return None
    parts = [
        date.fromordinal(value + _EPOCH_DAY) if kind.name == "date" and isinstance(value, int) else value
        for value, kind in zip(values, kinds, strict=True)
    ]
    return signed(xxhash.xxh3_64_intdigest(encode_key(parts, kinds)))


def of_item(value: int, number: int) -> int:
    """Return the row hash or event id of an item of an exploded row, by that of the row."""
    return signed(mix(value & _MASK ^ number))


def check_id(source: str, column: str, kind: DataType) -> None:
    """Raise SpecError where a column's type is none for an event id."""
    if not kind.is_key:
        raise SpecError(
            f"event_id: '{column}' is {kind}; equal ids must be equal bytes.",
            where=f"source '{source}'",
            hint="Use a column of integers, text, binary, bool, date or timestamp.",
        )


def check_order(source: str, column: str, kind: DataType) -> None:
    """Raise SpecError where the order of a type does not fit into 64 bits."""
    if kind.name in ("string", "binary", "list", "vector", "json") or (
        kind.name == "decimal" and kind.precision > 18
    ):
        raise SpecError(
            f"order_by: '{column}' is {kind}, whose order does not fit into 64 bits.",
            where=f"source '{source}'",
            hint="Use a column of integers, floats, decimal(18,s) at most, bool, date or timestamp.",
        )


def order_rank(value: Any, kind: DataType) -> int:
    """Return the rank of a value of the `order_by` column: an int64 in the order of the values.

    Null is the lowest; so is the one lowest value of a 64-bit integer. NaN is above all floats.
    """
    if value is None:
        return LOWEST
    if kind.is_float:
        bits = signed(double_bits(value))
        return bits if bits >= 0 else bits ^ 0x7FFFFFFFFFFFFFFF
    if kind.name == "decimal":
        return int(Decimal(value).scaleb(kind.scale, _EXACT))
    return int(value) - 2**63 if kind.name == "uint64" else int(value)
