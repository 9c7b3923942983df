"""`date_parts`: hour, day of week … of a timestamp or date as columns of their own."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from featurestore.expressions.build import call, constant
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope

Part = Literal[
    "second", "minute", "hour", "day_of_week", "day", "week", "month", "quarter", "year", "is_weekend"
]


class DateParts(Parameters):
    """Parts of a timestamp or date as int64 columns `<column>_<part>`; is_weekend as bool.

    second, minute and hour (of a timestamp only), day_of_week (Monday 0), day (of the month), week (of the
    ISO year: the one with its Thursday), month, quarter, year, is_weekend; all by the clock of `timezone:`,
    UTC by default. Null of null. The column itself stays.
    """

    key: ClassVar[str] = "date_parts"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"column": "at", "parts": ["hour", "day_of_week", "is_weekend"], "timezone": "Europe/Berlin"},
            {"at": datetime(2026, 11, 21, 23, 30, tzinfo=UTC)},
            {
                "at": datetime(2026, 11, 21, 23, 30, tzinfo=UTC),
                "at_hour": 0,
                "at_day_of_week": 6,
                "at_is_weekend": True,
            },
        ),
        Example(
            {"column": "on", "parts": ["day", "week", "month", "quarter", "year"]},
            {"on": date(2027, 1, 1)},
            {
                "on": date(2027, 1, 1),
                "on_day": 1,
                "on_week": 53,
                "on_month": 1,
                "on_quarter": 1,
                "on_year": 2027,
            },
        ),
    )

    column: ColumnName
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    timezone: str | None = Field(None, description="An IANA time zone, as Europe/Berlin; default UTC.")

    def compile(self, scope: Scope) -> None:
        """Assign one column per part."""
        column = scope.column(self.column)
        zone = () if self.timezone is None else (constant(self.timezone),)
        for part in self.parts:
            scope.assign(f"{self.column}_{part}", call(part, column, *zone))
            scope.reveal(f"{self.column}_{part}")
