"""Local times to UTC by the IANA rules, for whole columns (DESIGN 3.1).

A local time that occurs twice is the earlier instant; one that does not exist moves forward by the gap. Both
are what `datetime` says with `fold=0`. The rules are Python's own (`zoneinfo`), so that a column and a single
value can never be read by two editions of the database.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np
import numpy.typing as npt

from featurestore.errors import SpecError, did_you_mean
from featurestore.instants import ALWAYS, DAY, LAST, SECOND, to_datetime

Micros: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_PROBE = 6 * 3600 * SECOND
"""How densely a year is searched for transitions. No zone has two that undo each other within six hours."""


@dataclass(frozen=True)
class Localised:
    """UTC microseconds, and which local times occurred twice (`ambiguous`) or never (`missing`)."""

    utc: Micros
    ambiguous: Mask
    missing: Mask


def zone(name: str) -> ZoneInfo:
    """Return the IANA zone of that name. Raises SpecError with the nearest name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(name, available_timezones())
        raise SpecError(f"timezone: '{name}' is no IANA time zone.", hint=hint) from None


def to_utc(local: Micros, name: str) -> Localised:
    """Return the instants of local times, both in microseconds (those of a local time as if it were UTC)."""
    nothing = np.zeros(len(local), np.bool_)
    if not len(local):
        return Localised(local, nothing, nothing)
    rules = zone(name)
    inside = np.clip(local, ALWAYS, LAST)
    years = np.unique(inside.view("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970)
    # The years after hold the change, or its absence, that ends the offset of the years that occur.
    wanted = {year + near for year in years.tolist() for near in (-1, 0, 1, 2)}
    changes = sorted({change for year in wanted for change in _changes(rules, year)})
    before = np.array([change[1] for change in changes], np.int64)
    after = np.array([change[2] for change in changes], np.int64)
    # Until the clock shows `ends`, the old offset holds: past a gap, or past the first of two occurrences.
    ends = np.array([change[0] for change in changes], np.int64) + np.maximum(before, after)
    index = np.searchsorted(ends, local, "right")
    utc = local - np.append(before, after[-1])[index]
    # `strange` before `ends`, local times occur twice (the clock went back) or never (it went forward).
    span = np.append(before - after, 0)
    strange = local >= np.append(ends, np.iinfo(np.int64).max)[index] - np.abs(span[index])
    return Localised(utc, strange & (span[index] > 0), strange & (span[index] < 0))


@functools.lru_cache(maxsize=4096)
def _changes(rules: ZoneInfo, year: int) -> tuple[tuple[int, int, int], ...]:
    """Return the instants of a UTC year at which the offset changes, with the offsets before and after.

    The first is the year's beginning, where it does not change, so that years may be left out between.
    """
    if not 1 <= year <= 9999:
        return ()
    start = int(np.datetime64(f"{year:04d}-01-01", "us").astype(np.int64))
    stop = int(np.datetime64(f"{year + 1:04d}-01-01", "us").astype(np.int64)) if year < 9999 else LAST - DAY
    low = max(start, ALWAYS + DAY)
    known = _offset(rules, low)
    found = [(low, known, known)]
    while low < stop:
        high = min(low + _PROBE, stop)
        offset = _offset(rules, high)
        if offset != known:
            change = _first(rules, known, low, high)
            found.append((change, known, offset))
            known = offset
        low = high
    return tuple(found)


def _first(rules: ZoneInfo, known: int, low: int, high: int) -> int:
    while high - low > SECOND:
        middle = (low + high) // 2 // SECOND * SECOND
        if _offset(rules, middle) == known:
            low = middle
        else:
            high = middle
    return high


def _offset(rules: ZoneInfo, instant: int) -> int:
    offset = to_datetime(instant).astimezone(rules).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)
