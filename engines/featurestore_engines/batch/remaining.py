"""Which rows of a training set remain: those that a join, a label and a condition leave."""

from __future__ import annotations

import polars as pl

from featurestore.expressions.to_polars import rejects, to_polars
from featurestore.plans import Condition


class Remaining:
    """The rows that remain so far. `dropped` counts, by reason, those that do not."""

    def __init__(self, rows: int) -> None:
        self._rows = pl.repeat(True, rows, eager=True)
        self.dropped: dict[str, int] = {}

    def keep(self, reason: str, rows: pl.Series) -> None:
        """Keep only these of the rows (bool, without nulls)."""
        dropped = int((self._rows & ~rows).sum())
        if dropped:
            self.dropped[reason] = self.dropped.get(reason, 0) + dropped
            self._rows &= rows

    def of(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a frame that remain."""
        return frame.filter(self._rows) if self.dropped else frame


def holds(condition: Condition, fetched: pl.DataFrame, features: pl.DataFrame) -> pl.Series:
    """Return where a condition is true; null, and what overflows, is not.

    `set.feature` and inputs are read from `fetched`, outputs and the label from `features`.
    """
    columns = [
        (features if "." not in column and slot in features.columns else fetched)[slot].alias(column)
        for column, slot in condition.columns
    ]
    frame = pl.DataFrame(columns) if columns else fetched.select(pl.first())
    value = to_polars(condition.expression).fill_null(False)
    overflow = rejects(condition.expression)
    if overflow is not None:
        value = value & ~overflow.fill_null(False)
    found = frame.select(value.alias("holds"))["holds"]
    return found if len(found) == frame.height else pl.repeat(found[0], frame.height, eager=True)
