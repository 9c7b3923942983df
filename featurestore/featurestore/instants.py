"""Instants and durations as whole microseconds (DESIGN 3.1: UTC; nanoseconds are floored)."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from featurestore.errors import SpecError

MICROSECOND = 1
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

ALWAYS = -62_135_596_800 * SECOND
"""The event time of a table without time: 0001-01-01T00:00:00Z, the first instant there is."""

LAST = 253_402_300_800 * SECOND - 1
"""9999-12-31T23:59:59.999999Z, the last instant there is."""

EPOCH_TICKS = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
"""By the unit that integers count: what to multiply by, then to divide by, for microseconds."""

_UNITS = {"us": 1, "ms": 1000, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"(?:\d+(?:us|ms|s|m|h|d|w))+$")
_PART = re.compile(r"(\d+)(us|ms|s|m|h|d|w)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str) -> int:
    """Return microseconds of `90s`, `2h`, `1d12h`, `500ms`. Raises SpecError on anything else."""
    if not _DURATION.match(text):
        raise SpecError(f"'{text}' is no duration.", hint="Write a number and a unit: us, ms, s, m, h, d, w.")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def format_duration(microseconds: int) -> str:
    """Return the shortest text that `parse_duration` reads back, `0s` for nothing."""
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        number, microseconds = divmod(microseconds, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def from_datetime(value: datetime) -> int:
    """Return UTC microseconds of an aware datetime. A naive one is refused (ValueError)."""
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; write it with one, as …Z or …+00:00.")
    delta = value - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


def to_datetime(instant: int) -> datetime:
    """Return the aware UTC datetime of microseconds since the epoch."""
    from datetime import timedelta

    return _EPOCH + timedelta(microseconds=instant)


def parse_instant(value: str | int | datetime) -> int:
    """Return UTC microseconds of ISO 8601 text with a zone, a datetime, or microseconds.

    Digits past the microsecond are floored. Raises ValueError on naive or unreadable text.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value} is no instant.")
    if isinstance(value, int):
        if not ALWAYS <= value <= LAST:
            raise ValueError(f"{value} microseconds lie outside the years 1 to 9999.")
        return value
    if isinstance(value, datetime):
        return from_datetime(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no instant; write ISO 8601 text with a zone, or a datetime.")
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value.strip()))
    except ValueError:
        raise ValueError(f"'{value}' is no ISO 8601 text, as 2026-01-01T00:00:00Z.") from None
    return from_datetime(moment)


def format_instant(instant: int) -> str:
    """Return `2026-11-21T10:00:00.000000Z`."""
    return to_datetime(instant).isoformat(timespec="microseconds")[:26] + "Z"


def now() -> int:
    """Return the present instant by the wall clock."""
    return time.time_ns() // 1000
