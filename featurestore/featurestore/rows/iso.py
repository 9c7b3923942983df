"""ISO 8601 text to microseconds, for whole columns.

What is read: `YYYY-MM-DD`, alone or with `T` or a space and `HH:MM[:SS[.fraction]]`, then nothing, `Z`, or an
offset `±HH[[:]MM]`. Digits of the fraction past the sixth are floored. There is no second 60 and no hour 24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from featurestore.instants import DAY, HOUR, MINUTE, SECOND
from featurestore.rows.hashing import text_buffers

Micros: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Text: TypeAlias = npt.NDArray[np.uint8]

_LONGEST = 64
_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_OFFSETS = {3: "+HH", 5: "+HHMM", 6: "+HH:MM"}


@dataclass(frozen=True)
class Times:
    """Per row: microseconds (UTC where `has_zone`, else of the local clock), and whether it `is_time`."""

    micros: Micros
    has_zone: Mask
    is_time: Mask


def parse(series: pl.Series) -> Times:
    """Return the times that a column of text says; a null is no time."""
    offsets, data = text_buffers(series)
    count = len(series)
    result = Times(np.zeros(count, np.int64), np.zeros(count, np.bool_), np.zeros(count, np.bool_))
    lengths = np.diff(offsets)
    if series.null_count():
        lengths = np.where(series.is_null().to_numpy(), 0, lengths)
    for length in np.unique(lengths).tolist():
        if length != 10 and not 16 <= length <= _LONGEST:
            continue
        rows = np.flatnonzero(lengths == length)
        if len(rows) == count:
            text = data[offsets[0] : offsets[-1]].reshape(count, length)
        else:
            text = data[offsets[rows][:, None] + np.arange(length)]
        _parse_length(text, rows, result)
    return result


def _parse_length(text: Text, rows: npt.NDArray[np.int64], into: Times) -> None:
    """Parse texts of one length; those that are written alike are parsed together."""
    length = text.shape[1]
    seconds = text[:, 16] == ord(":") if length >= 19 else np.zeros(len(text), np.bool_)
    zone = np.zeros(len(text), np.int64)  # how many characters the zone takes
    if length > 16:
        for width in (3, 5, 6):
            if length - width >= 16:
                sign = text[:, length - width]
                zone[(sign == ord("+")) | (sign == ord("-"))] = width
        zone[(text[:, -1] | 0x20) == ord("z")] = 1
    shape = zone * 2 + seconds
    shapes = np.unique(shape)
    for each in shapes.tolist():
        chosen = slice(None) if len(shapes) == 1 else shape == each
        at = rows[chosen]
        into.micros[at], into.is_time[at] = _parse_alike(text[chosen], bool(each % 2), each // 2)
        into.has_zone[at] = each > 1


def _parse_alike(text: Text, seconds: bool, zone: int) -> tuple[Micros, Mask]:
    length = text.shape[1]
    good = (text[:, 4] == ord("-")) & (text[:, 7] == ord("-"))

    def number(start: int, stop: int) -> Any:
        nonlocal good
        total: Any = 0
        for place in range(start, stop):
            digit = text[:, place] - np.uint8(48)
            good &= digit <= 9
            total = total * 10 + digit.astype(np.int64)
        return total

    micros = _days(number(0, 4), number(5, 7), number(8, 10), good) * DAY
    if length == 10:
        return micros, good
    separator = text[:, 10]
    good &= ((separator | 0x20) == ord("t")) | (separator == ord(" "))
    good &= text[:, 13] == ord(":")
    hour, minute = number(11, 13), number(14, 16)
    good &= (hour < 24) & (minute < 60)
    micros += hour * HOUR + minute * MINUTE
    stop = length - zone
    place = 16
    if seconds:
        second = number(17, 19)
        good &= second < 60
        micros += second * SECOND
        place = 19
        if stop - place > 1:
            good &= (text[:, 19] == ord(".")) | (text[:, 19] == ord(","))
            kept = min(stop, 26)
            micros += number(20, kept) * 10 ** (26 - kept)
            number(kept, stop)
            place = stop
    if place != stop:
        good &= False
    elif zone > 1:
        if _OFFSETS[zone] == "+HH:MM":
            good &= text[:, length - 3] == ord(":")
        hours = number(stop + 1, stop + 3)
        minutes = number(length - 2, length) if zone > 3 else 0 * hours
        good &= (hours < 24) & (minutes < 60)
        ahead = hours * HOUR + minutes * MINUTE
        micros += np.where(text[:, stop] == ord("-"), ahead, -ahead)
    return micros, good


def _days(year: Micros, month: Micros, day: Micros, good: Mask) -> Micros:
    """Return days since 1970 (Hinnant's days_from_civil); clears `good` where there is no such date."""
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    valid = (month >= 1) & (month <= 12)
    longest = _DAYS[np.where(valid, month - 1, 0)] + (leap & (month == 2))
    good &= valid & (year >= 1) & (day >= 1) & (day <= longest)
    shifted = year - (month <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days: Micros = era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
    return days
