"""How values travel through the algebra, and how they come back as row values.

Integers, booleans, dates (days) and timestamps (microseconds) are whole numbers, uint64 unsigned; floats
are float64. A decimal is its digits as a whole number: int64 up to 18 digits, beyond those 16 bytes that
sort as the numbers do. Text and bytes are Python objects; a list is the MessagePack of its row values, a
vector its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Context, Decimal
from typing import Any

import msgspec
import numpy as np

from featurestore.aggregates.arrays import Array
from featurestore.rows.vectors import pack, unpack
from featurestore.types import DataType

NARROW = 18
"""The most digits of a decimal that int64 carries."""

_BIAS = 2**127
_WIDE = Context(prec=80)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

Restore = Callable[[Any], Any]


def carrier(kind: DataType) -> str:
    """Return the numpy type that carries a column's values through the algebra."""
    if kind.is_float:
        return "<f8"
    if kind.name == "uint64":
        return "<u8"
    if kind.is_integer or kind.name in ("bool", "date", "timestamp"):
        return "<i8"
    return "<i8" if kind.name == "decimal" and kind.precision <= NARROW else "object"


def carry(value: Any, kind: DataType) -> Any:
    """Return one row value, not null, as what carries it."""
    if kind.name == "decimal":
        return carry_unscaled([int(_WIDE.scaleb(value, kind.scale))], kind)[0]
    if kind.name == "vector":
        return pack(value, kind)
    return _pack(value) if kind.is_nested else value


def carry_unscaled(numbers: Iterable[int], kind: DataType) -> list[Any]:
    """Return a decimal type's values, given as the whole numbers of their digits, as what carries them."""
    if kind.precision <= NARROW:
        return list(numbers)
    return [(number + _BIAS).to_bytes(16, "big") for number in numbers]


def carry_lists(items: Iterable[list[Any] | None]) -> list[bytes | None]:
    """Return lists of row values, or nulls, as what carries them."""
    return [None if item is None else _pack(item) for item in items]


def whole_numbers(values: Array) -> list[int]:
    """Return carried integers, or the digits of carried decimals, as Python's integers."""
    if values.dtype != object:
        return values.tolist()  # type: ignore[no-any-return]
    return [int.from_bytes(value, "big") - _BIAS for value in values.tolist()]


def limbs(values: Array) -> tuple[Array, ...]:
    """Return wide decimals' digits in limbs of 32 bits, the least first; the last is signed, the rest not."""
    raw = np.frombuffer(b"".join(values.tolist()), ">u4").reshape(-1, 4).astype(np.int64)
    return (raw[:, 3], raw[:, 2], raw[:, 1], raw[:, 0] - 2**31)


def pairs(values: Array) -> tuple[Array, Array | None]:
    """Return carried numbers as float64, and what that leaves of them (None: nothing)."""
    if values.dtype == object:
        exact = whole_numbers(values)
        high = np.array([float(number) for number in exact], np.float64)
        rest = [number - int(top) for number, top in zip(exact, high.tolist(), strict=True)]
        return high, np.array(rest, np.float64)
    high = values.astype(np.float64, copy=False)
    if values.dtype.kind == "f" or not len(values) or float(np.abs(high).max()) < 2.0**53:
        return high, None
    # at the very end of the range the float lies one past the largest integer
    top = float(np.iinfo(values.dtype).max)
    back = np.where(high >= top, 0.0, high).astype(values.dtype)
    below = (values - back).astype(np.int64).astype(np.float64)
    past = (np.iinfo(values.dtype).max - values).astype(np.float64) + 1.0
    return high, np.where(high >= top, -past, below)


def plain_values(values: Array, found: Array, kind: DataType) -> list[object]:
    """Return finished values as row values of their type, None where not found."""
    items: list[object] = plain_array(values, found, kind).tolist()
    return items


def plain_array(values: Array, found: Array, kind: DataType) -> Array:
    """Return finished values as an array of row values of their type, None where not found."""
    items = values.astype(object)
    if (restore := _restore(kind)) is not None:
        for place in np.flatnonzero(found).tolist():
            items[place] = restore(items[place])
    if not found.all():
        items[~found] = None
    return items


def _restore(kind: DataType) -> Restore | None:
    """Return what turns a carried or finished value into a row value; None where it is one."""
    if kind.name == "bool":
        return bool
    if kind.name == "decimal":
        return lambda value: _decimal(value, kind.scale)
    if kind.name == "map":
        assert kind.key is not None
        key = _restore(kind.key)
        if key is None:
            return dict
        return lambda pairs: {key(item): count for item, count in pairs}
    if kind.name == "vector":
        return lambda value: unpack(value, kind)
    if kind.item is None:
        return None
    item = _restore(kind.item)

    def listed(value: Any) -> list[Any]:
        if isinstance(value, bytes):  # a list of the column's; else one of several values
            unpacked: list[Any] = _typed(_unpack(value), kind)
            return unpacked
        return list(value) if item is None else [item(part) for part in value]

    return listed


def _decimal(value: Any, scale: int) -> Decimal:
    number = int.from_bytes(value, "big") - _BIAS if isinstance(value, bytes) else value
    return _WIDE.scaleb(Decimal(number), -scale)


def _typed(value: Any, kind: DataType) -> Any:
    """Return unpacked values with the decimals among them, which are packed as text."""
    if value is None or not kind.holds_decimals:
        return value
    if kind.item is not None:
        return [_typed(part, kind.item) for part in value]
    return Decimal(value)
