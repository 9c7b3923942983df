"""`scale`: a number on the scale of the values that a fit saw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from featurestore import expressions
from featurestore.errors import SpecError
from featurestore.expressions import Expression
from featurestore.expressions.build import call, cast, constant
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope
from featurestore.types import FLOAT64

_NULL = expressions.Literal(FLOAT64, None)


class Scale(Parameters):
    """A number on the scale of the values that `featurestore fit` sees, as float64.

    `standard` is (x - mean) / std, with the population's std. `min_max` is (x - min) / (max - min): what lies
    outside of the fitted values lies outside 0 to 1. Null, NaN and infinities are not fitted. Where all
    fitted values were equal, every value is 0.0. Null gives null, NaN gives NaN. In place, or a new column
    with `into:`.
    """

    key: ClassVar[str] = "scale"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "x"}, {"x": 8.0}, {"x": 1.5}, fits={"x": {"mean": 5.0, "std": 2.0}}),
        Example(
            {"column": "x", "method": "min_max", "into": "share"},
            {"x": 3},
            {"x": 3, "share": 0.25},
            fits={"x": {"min": 2, "max": 6}},
        ),
    )

    column: ColumnName
    method: Literal["standard", "min_max"] = Field("standard", description="What it is measured by.")
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign the value on the fitted scale."""
        column = scope.column(self.column)
        if not column.type.is_number:
            raise SpecError(f"A number is needed, and '{self.column}' is {column.type}.")
        names = ("mean", "std") if self.method == "standard" else ("min", "max")
        fitted = scope.fitted(column, *names)
        scaled = _NULL if fitted is None else self._scaled(cast(column, FLOAT64), fitted)
        scope.put(self.column, self.into, scaled)

    def _scaled(self, x: Expression, fitted: Mapping[str, Any]) -> Expression:
        if self.method == "standard":
            low, spread = float(fitted["mean"]), float(fitted["std"])
        else:
            low = float(fitted["min"])
            spread = float(fitted["max"]) - low
        if spread == 0 or not math.isfinite(spread):
            undefined = call("or", call("is_null", x), call("is_nan", x))
            return call("case", undefined, x, constant(0.0))
        return call("divide", call("subtract", x, constant(low)), constant(spread))
