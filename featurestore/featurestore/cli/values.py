"""Values as JSON and as the cells of tables."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from featurestore.instants import format_instant, from_datetime

_EXACT = 2**53  # integers beyond are text in JSON, for many readers hold numbers as doubles


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: instants in ISO 8601, NaN as null, integers past 2**53 as text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_EXACT <= value <= _EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat() if value.tzinfo is None else format_instant(from_datetime(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return the JSON text of a value."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False)


def cell(value: Any) -> str:
    """Return a value as one line of text: floats with all their digits, null as `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return f"{value:,}"
    text = value if isinstance(value, str) else plain(value)
    if isinstance(value, datetime):
        text = text.replace(".000000Z", "Z")
    return printable(text if isinstance(text, str) else to_json(text, indent=None))


def printable(text: str) -> str:
    """Return text with what would move the cursor or colour the terminal written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_instant(text: str | None) -> str | None:
    """Return `2026-11-21 10:00` of an instant's text."""
    return None if text is None else text[:16].replace("T", " ")


def short_duration(text: str | None) -> str | None:
    """Return the two largest units of a duration's text, `1d2h` of `1d2h35m13s`."""
    return None if text is None else "".join(re.findall(r"\d+[a-z]+", text)[:2])


def short_bytes(number: int | None) -> str | None:
    """Return `1.4 MB`."""
    if number is None:
        return None
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
