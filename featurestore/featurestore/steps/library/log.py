"""`log` and `haversine`: functions of numbers that are asked for often."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from featurestore.errors import SpecError
from featurestore.expressions import Expression
from featurestore.expressions.build import call, constant, to_type
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope
from featurestore.types import FLOAT64


class Log(Parameters):
    """The logarithm of a number plus `add:`, to base e (the default), 2 or 10, as float64.

    Null of null, and where the sum is 0 or less; NaN of NaN. In place, or a new column with `into:`.
    """

    key: ClassVar[str] = "log"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "amount", "base": 10}, {"amount": 1000.0}, {"amount": 3.0}),
        Example(
            {"column": "amount", "add": 1, "into": "log_amount"},
            {"amount": 0},
            {"amount": 0, "log_amount": 0.0},
        ),
        Example({"column": "amount", "base": 2}, {"amount": -1.0}, {"amount": None}),
    )

    column: ColumnName
    base: Literal["e", 2, 10] = "e"
    add: int | float = Field(0, description="What is added first, such as 1 for counts.")
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign the logarithm."""
        number: Expression = scope.column(self.column)
        if not number.type.is_number:
            raise SpecError(f"A number is needed, and '{self.column}' is {number.type}.")
        number = to_type(number, FLOAT64)
        if self.add:
            number = call("add", number, constant(float(self.add)))
        name = {"e": "ln", 2: "log2", 10: "log10"}[self.base]
        scope.put(self.column, self.into, call(name, number))


Point = tuple[ColumnName | int | float, ColumnName | int | float]


class Haversine(Parameters):
    """The great-circle distance of two points, `[latitude, longitude]` in degrees, as float64.

    A point's parts are columns, or numbers for a fixed point. `unit:` is km (the default), m or mi. Null
    where a part is null or NaN, a latitude beyond 90 or a longitude beyond 360. The earth is a sphere of
    6371.0088 km here, which is within 0.6 % of the truth.
    """

    key: ClassVar[str] = "haversine"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"from": ["lat", "lon"], "to": [0, 0], "unit": "m", "into": "metres"},
            {"lat": 0.0, "lon": 0.0},
            {"lat": 0.0, "lon": 0.0, "metres": 0.0},
        ),
        Example(
            {"from": ["lat", "lon"], "to": ["shop_lat", "shop_lon"], "into": "away"},
            {"lat": 91.0, "lon": 0.0, "shop_lat": 0.0, "shop_lon": 0.0},
            {"lat": 91.0, "lon": 0.0, "shop_lat": 0.0, "shop_lon": 0.0, "away": None},
        ),
    )

    from_: Annotated[Point, Field(alias="from", description="Latitude and longitude.")]
    to: Annotated[Point, Field(description="Latitude and longitude.")]
    unit: Literal["km", "m", "mi"] = "km"
    into: ColumnName

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def compile(self, scope: Scope) -> None:
        """Assign the distance."""
        parts = [
            scope.column(part) if isinstance(part, str) else constant(part)
            for part in (*self.from_, *self.to)
        ]
        scope.put(self.into, self.into, call("haversine", *parts, constant(self.unit)))
