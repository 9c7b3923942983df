"""`clip`: values held between bounds."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.expressions import Expression
from featurestore.expressions.build import call
from featurestore.steps.base import Bound, ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope


class Clip(Parameters):
    """Values below `min` become `min`, values above `max` become `max`; null and NaN stay.

    In place, or a new column with `into:`.
    """

    key: ClassVar[str] = "clip"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "amount", "min": 0, "max": 100}, {"amount": 250.0}, {"amount": 100.0}),
    )

    column: ColumnName
    min: Bound | None = Field(None, description="The least value; text for times.")
    max: Bound | None = Field(None, description="The greatest value; text for times.")
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign a choice between the value and the bounds."""
        column = scope.column(self.column)
        if self.min is None and self.max is None:
            raise SpecError("Say min:, max: or both.")
        if not (column.type.is_number or column.type.name in ("timestamp", "date")):
            raise SpecError(f"A number or a time is needed, and '{self.column}' is {column.type}.")
        low, high = (
            None if bound is None else scope.constant(bound, column.type) for bound in (self.min, self.max)
        )
        if low and high and not low.value <= high.value:
            raise SpecError(f"min: {self.min} is above max: {self.max}.")
        branches: list[Expression] = [call("is_nan", column), column] if column.type.is_float else []
        if low:
            branches += [call("less", column, low), low]
        if high:
            branches += [call("greater", column, high), high]
        scope.put(self.column, self.into, call("case", *branches, column))
