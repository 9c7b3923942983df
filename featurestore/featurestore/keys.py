"""Canonical bytes of an entity's key, and the one hash that partitions them (DESIGN 3.12, 7).

Every part is written as its type's tag, then the value: integers as 8 bytes, text and bytes with
their length in front. So 1 and "1" differ, "00123" stays itself, and parts never run together.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import xxhash

from featurestore.instants import ALWAYS, LAST, parse_instant
from featurestore.types import DataType, integer_bounds

SHARDS = 256

_INT = struct.Struct(">cq")
_UINT = struct.Struct(">cQ")
_LENGTH = struct.Struct(">cI")
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def cast_key(value: Any, kind: DataType) -> Any:
    """Return `value` as the entity's type, or raise ValueError where that would lose something.

    17850.0 is 17850 for an integer key; "17850" is not; None and NaN are no keys. Text is a timestamp or a
    date in ISO 8601, and binary in base64, as JSON says them.
    """
    if value is None or value != value:
        raise ValueError("a key is null")
    if kind.is_integer:
        is_whole = isinstance(value, float) and value.is_integer()
        if is_whole or (isinstance(value, Decimal) and value == value.to_integral_value()):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = integer_bounds(kind)
            if low <= value <= high:
                return value
    elif (
        (kind.name == "string" and isinstance(value, str))
        or (kind.name == "binary" and isinstance(value, bytes))
        or (kind.name == "bool" and isinstance(value, bool))
    ):
        return value
    elif kind.name == "binary" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    elif kind.name == "timestamp" and isinstance(value, (str, datetime)):
        return parse_instant(value)
    elif kind.name == "timestamp" and isinstance(value, int) and not isinstance(value, bool):
        if ALWAYS <= value <= LAST:
            return value
    elif kind.name == "date":
        if isinstance(value, str):
            value = date.fromisoformat(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value + _EPOCH_DAY <= date.max.toordinal():
                raise ValueError(f"{value!r} is no {kind} key")
            value = date.fromordinal(value + _EPOCH_DAY)
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
    if type(value).__module__ == "numpy" and value.dtype.kind in "iufb":
        return cast_key(value.item(), kind)
    raise ValueError(f"{value if isinstance(value, Decimal) else repr(value)} is no {kind} key")


def encode_key(values: Sequence[Any], kinds: Sequence[DataType]) -> bytes:
    """Return the canonical bytes of cast key values, one per entity of the set, in its order."""
    parts = []
    for value, kind in zip(values, kinds, strict=True):
        if kind.name == "string":
            parts.append(_text_part(value.encode()))
        elif kind.name == "binary":
            parts.append(_LENGTH.pack(b"b", len(value)) + value)
        elif kind.name == "timestamp":
            parts.append(_INT.pack(b"t", value))
        elif kind.name == "date":
            parts.append(_INT.pack(b"d", value.toordinal() - _EPOCH_DAY))
        elif kind.name == "bool":
            parts.append(_INT.pack(b"?", value))
        elif kind.name == "uint64":
            parts.append(_UINT.pack(b"i", value) if value < 2**63 else _UINT.pack(b"u", value))
        else:
            parts.append(_INT.pack(b"i", value))
    return b"".join(parts)


def key_encoder(kind: DataType) -> Callable[[Any], bytes]:
    """Return what `encode_key` gives for one part after `cast_key`: a key's bytes are its parts', joined."""

    def any_value(value: Any) -> bytes:
        return encode_key([cast_key(value, kind)], [kind])

    if kind.name == "string":
        return lambda value: _text_part(value.encode()) if type(value) is str else any_value(value)
    if kind.is_integer and kind.name != "uint64":
        low, high = integer_bounds(kind)
        pack = _INT.pack
        return lambda value: (
            pack(b"i", value) if type(value) is int and low <= value <= high else any_value(value)
        )
    return any_value


def _text_part(text: bytes) -> bytes:
    return _LENGTH.pack(b"s", len(text)) + text


def shard_of(key: bytes) -> int:
    """Return the shard, 0 to 255, of a canonical key: the low byte of its xxh3-64."""
    return xxhash.xxh3_64_intdigest(key) & (SHARDS - 1)
