"""Request values as typed row values: what a caller sends, cast without loss (DESIGN 3.12, 3.14)."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from featurestore import json_documents
from featurestore.errors import RequestError
from featurestore.expressions.runtime import Overflow, to_decimal
from featurestore.instants import ALWAYS, LAST, from_datetime, parse_instant, to_datetime
from featurestore.rows.vectors import why_not
from featurestore.types import DataType, Field, integer_bounds

_EXACT = 2**53
"""Whole numbers up to this are exact as floats."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}$", re.ASCII)
_INSTANT = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?$", re.ASCII
)
"""What the stream's door reads as an instant."""


def row_value(value: Any, kind: DataType, zone: str | None = None) -> Any:
    """Return a request's value as a row value of `kind`: instants in µs, dates in days, null as None.

    Raises ValueError where the value does not fit. `zone` is that of naive timestamps; without one they
    are refused.
    """
    if value is None:
        return None
    if type(value).__module__ == "numpy":
        value = value.tolist()
    cast = _CASTS.get(kind.name) or (_whole if kind.is_integer else _real)
    return cast(value, kind, zone)


def cast_row(row: Mapping[str, Any], schema: tuple[Field, ...], zone: str | None = None) -> dict[str, Any]:
    """Return a raw row as typed row values; a missing column is null. Raises RequestError with the column."""
    result = {}
    for field in schema:
        try:
            result[field.name] = row_value(row.get(field.name), field.type, zone)
        except ValueError as error:
            raise RequestError(f"{field.name}: {error}") from None
    return result


def outward(value: Any, kind: DataType) -> Any:
    """Return a row value as Python users know it: instants as datetimes, dates as dates."""
    if value is None:
        return None
    if kind.name == "timestamp":
        return to_datetime(value)
    if kind.name == "date":
        return date.fromordinal(value + _EPOCH_DAY)
    if kind.name == "list" and kind.item is not None:
        return [outward(item, kind.item) for item in value]
    if kind.name == "map" and kind.key is not None and kind.item is not None:
        return {outward(key, kind.key): outward(item, kind.item) for key, item in value.items()}
    return value


def _refuse(value: Any, kind: DataType) -> ValueError:
    return ValueError(f"{value if isinstance(value, Decimal) else repr(value)} is no {kind}")


def _whole(value: Any, kind: DataType, _: str | None) -> int:
    number = float(value) if isinstance(value, Decimal) else value
    if isinstance(number, float) and number.is_integer() and abs(number) <= _EXACT:
        value = int(number)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refuse(value, kind)
    low, high = integer_bounds(kind)
    if not low <= value <= high:
        raise _refuse(value, kind)
    return value


def _real(value: Any, kind: DataType, _: str | None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _refuse(value, kind)
    try:
        result = float(value) + 0.0
    except OverflowError:
        raise _refuse(value, kind) from None
    if kind.name == "float32" and math.isfinite(result):
        import numpy as np

        with np.errstate(over="ignore"):
            result = float(np.float32(result))
    was_finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    if was_finite and math.isinf(result):
        raise _refuse(value, kind)
    return result


def _text(value: Any, kind: DataType, _: str | None) -> str:
    if not isinstance(value, str):
        raise _refuse(value, kind)
    return value


def _truth(value: Any, kind: DataType, _: str | None) -> bool:
    if not isinstance(value, bool):
        raise _refuse(value, kind)
    return value


def _bytes(value: Any, kind: DataType, _: str | None) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    raise _refuse(value, kind)


def _decimal(value: Any, kind: DataType, _: str | None) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _refuse(value, kind)
    try:
        exact = Decimal(str(value))
        scaled = to_decimal(exact, kind.precision, kind.scale)
    except (InvalidOperation, Overflow):
        raise _refuse(value, kind) from None
    if scaled != exact:
        raise _refuse(value, kind)
    return scaled


def _date(value: Any, kind: DataType, _: str | None) -> int:
    if isinstance(value, str):
        if not _DATE.match(value):
            raise _refuse(value, kind)
        value = date.fromisoformat(value)
    if not isinstance(value, date) or isinstance(value, datetime):
        raise _refuse(value, kind)
    return value.toordinal() - _EPOCH_DAY


def _timestamp(value: Any, kind: DataType, zone: str | None) -> int:
    if isinstance(value, str):
        text = value.strip()
        found = _INSTANT.match(text)
        if found is None:
            raise _refuse(value, kind)
        if len(found[3] or "") > 7:
            text = re.sub(r"(\.\d{6})\d+", r"\1", text)
        value = datetime.fromisoformat(text)
    if not isinstance(value, datetime):
        raise _refuse(value, kind)
    if value.tzinfo is None:
        if zone is None:
            raise ValueError(f"{value.isoformat()} has no time zone; write it with one, as …Z")
        return from_local(value, zone)
    instant = parse_instant(value)
    if not ALWAYS <= instant <= LAST:
        raise _refuse(value, kind)
    return instant


def from_local(value: datetime, zone: str) -> int:
    """Return the instant of a local time: the earlier of two, moved forward over a gap (DESIGN 3.1)."""
    aware = value.replace(tzinfo=ZoneInfo(zone), fold=0)
    return from_datetime(aware.astimezone(UTC))


def _list(value: Any, kind: DataType, zone: str | None) -> list[Any]:
    if not isinstance(value, list | tuple) or kind.item is None:
        raise _refuse(value, kind)
    return [row_value(item, kind.item, zone) for item in value]


def _vector(value: Any, kind: DataType, _: str | None) -> list[float]:
    if not isinstance(value, list | tuple) or kind.item is None:
        raise _refuse(value, kind)
    if len(value) != kind.size or None in value:
        raise ValueError(f"{value!r:.80} is no {kind}: {why_not(value, kind)}")
    return [_real(item, kind.item, None) for item in value]


def _json(value: Any, kind: DataType, _: str | None) -> str | None:
    """Return a document's canonical text: of text that holds one, or of plain values."""
    try:
        if isinstance(value, str):
            return json_documents.canonical(value) if value.strip() else None
        return json_documents.of_value(value)
    except ValueError:
        raise _refuse(value, kind) from None


_CASTS = {
    "string": _text,
    "bool": _truth,
    "binary": _bytes,
    "decimal": _decimal,
    "date": _date,
    "timestamp": _timestamp,
    "list": _list,
    "vector": _vector,
    "json": _json,
}
