"""Looking columns up by name, and the durations of a declaration, with errors that help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featurestore.errors import SpecError, did_you_mean
from featurestore.instants import DAY, parse_duration
from featurestore.types import DataType, Field

LONGEST = 366_000 * DAY
"""No duration is longer: instants minus it still fit 64 bits."""


def by_name(fields: Iterable[Field]) -> dict[str, DataType]:
    """Return each column's type by its name, in order."""
    return {field.name: field.type for field in fields}


def column_type(name: str, columns: Mapping[str, DataType]) -> DataType:
    """Return the type of a column. Raises SpecError with the nearest name where there is none."""
    if name not in columns:
        raise SpecError(f"there is no column '{name}'.", hint=did_you_mean(name, columns))
    return columns[name]


def duration(text: str) -> int:
    """Return microseconds of a declared duration. Raises SpecError past a thousand years."""
    value = parse_duration(text)
    if value > LONGEST:
        raise SpecError(f"'{text}' is longer than a thousand years.")
    return value


def positive(text: str) -> int:
    """Return microseconds of a declared duration that must not be nothing."""
    value = duration(text)
    if value == 0:
        raise SpecError(f"'{text}' is no time at all.", hint="Write a duration above zero.")
    return value
