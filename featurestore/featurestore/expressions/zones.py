"""Offsets of time zones, the same for single instants and for columns.

Polars carries its own zone data, which ends where rules go on for ever; so both lowerings ask
`zoneinfo`. No zone changes its offset twice in one UTC day, so one offset per day is remembered, and
the instants of the few days with a change are asked one by one.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from featurestore.instants import ALWAYS, DAY, LAST, MICROSECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS_KEPT = 100_000
_SPAN = 100_000

Days = npt.NDArray[np.int64]


class Zone:
    """A time zone's offset from UTC at any instant, in microseconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._zone = ZoneInfo(name)
        self._days: dict[int, int | None] = {}

    def local(self, instant: int) -> int:
        """Return the local time at an instant, as microseconds of a clock without zone."""
        day = instant // DAY
        offset = self._days[day] if day in self._days else self._day(day)
        return instant + (self._exact(instant) if offset is None else offset)

    def local_array(self, instants: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return `local` of each instant."""
        if not len(instants):
            return instants
        days, positions = _distinct(instants // DAY)
        offsets = [self._days[day] if day in self._days else self._day(day) for day in days.tolist()]
        local = instants + np.array([offset or 0 for offset in offsets], dtype=np.int64)[positions]
        changing = np.array([offset is None for offset in offsets], dtype=bool)[positions]
        for i in np.flatnonzero(changing):
            local[i] = instants[i] + self._exact(int(instants[i]))
        return local

    def _day(self, day: int) -> int | None:
        """Return the offset of a whole UTC day, None where it changes."""
        first, last = self._exact(day * DAY), self._exact(day * DAY + DAY - 1)
        offset = first if first == last else None
        if len(self._days) >= _DAYS_KEPT:
            self._days.clear()
        self._days[day] = offset
        return offset

    def _exact(self, instant: int) -> int:
        clamped = min(max(instant, ALWAYS + DAY), LAST - DAY)
        offset = (_EPOCH + timedelta(microseconds=clamped)).astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset // timedelta(microseconds=MICROSECOND)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return zone, (self.name,)


def _distinct(days: Days) -> tuple[Days, Days]:
    """Return the distinct days and the position of each day among them; by a table where they lie close."""
    low, high = int(days.min()), int(days.max())
    if high - low >= _SPAN:
        return np.unique(days, return_inverse=True)
    seen = np.zeros(high - low + 1, dtype=bool)
    seen[days - low] = True
    distinct = np.flatnonzero(seen)
    table = np.zeros(len(seen), dtype=np.int64)
    table[distinct] = np.arange(len(distinct))
    return distinct + low, table[days - low]


@functools.cache
def zone(name: str) -> Zone:
    """Return the zone of an IANA name. Raises ValueError where there is none."""
    try:
        return Zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"'{name}' is no time zone") from None
