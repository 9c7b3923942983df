"""`cast` and `impute`: columns as other types, and constants for nulls."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions import Column, Expression, Literal
from featurestore.expressions.build import call, cast
from featurestore.steps.base import Bare, ColumnName, Example
from featurestore.steps.compiler import Scope
from featurestore.types import DataType


class Cast(Bare[Annotated[dict[ColumnName, str], Field(min_length=1)]]):
    """Columns as other types, `{column: type}`, in place.

    Null is null, and so is text that spells no value; a number that does not fit rejects the row; to
    integers, half to even. As `cast(x as type)` of the expressions.
    """

    key: ClassVar[str] = "cast"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"age": "int64"}, {"age": "42"}, {"age": 42}),
        Example({"age": "int64"}, {"age": "U"}, {"age": None}),
    )

    def compile(self, scope: Scope) -> None:
        """Assign each cast."""
        for name, kind in self.root.items():
            scope.assign(name, cast(scope.column(name), DataType.parse(kind)))


class Impute(Bare[Annotated[dict[ColumnName, bool | int | float | str], Field(min_length=1)]]):
    """Constants for nulls, `{column: constant}` or `{column: …, value: …}`, in place. NaN is not null.

    `$mean`, `$median` and `$mode` (also `$min`, `$max`) are what `featurestore fit` finds in the column as it
    is before the step: null, NaN and infinities aside, the median linear between the middle two, the mode the
    least of the most frequent; of integers and times rounded half to even. Text that begins with a dollar has
    two: `$$5`.
    """

    key: ClassVar[str] = "impute"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"age": 0}, {"age": None}, {"age": 0}),
        Example({"age": "$mean"}, {"age": None}, {"age": 2}, fits={"age": {"mean": 2.5}}),
        Example(
            {"column": "shop", "value": "$mode"}, {"shop": "b"}, {"shop": "b"}, fits={"shop": {"mode": "a"}}
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"column", "value"} and isinstance(value["column"], str):
            return {value["column"]: value["value"]}
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        plain = handler(schema)
        value = {"type": ["boolean", "number", "string"], "description": "A constant, or $mean and its kin."}
        named = {
            "type": "object",
            "properties": {"column": {"type": "string"}, "value": value},
            "required": ["column", "value"],
            "additionalProperties": False,
        }
        return {"anyOf": [plain, named]}

    def compile(self, scope: Scope) -> None:
        """Assign each column or its constant."""
        for name, value in self.root.items():
            column = scope.column(name)
            try:
                filled = self._filled(column, value, scope)
            except SpecError as error:
                raise SpecError(f"'{name}' is {column.type}: {error.message}", hint=error.hint) from None
            scope.assign(name, column if filled is None else call("coalesce", column, filled))

    def _filled(self, column: Column, value: Any, scope: Scope) -> Expression | None:
        """Return what takes the place of null; None where that is not fitted yet."""
        from featurestore.compiler.imputes import STATISTICS, fitted

        if not isinstance(value, str) or not value.startswith("$"):
            return scope.constant(value, column.type)
        if value.startswith("$$"):
            return scope.constant(value[1:], column.type)
        name, known = value[1:], [f"${known}" for known in STATISTICS]
        if name not in STATISTICS:
            raise SpecError(f"'{value}' is no statistic.", hint=did_you_mean(value, known))
        is_time = column.type.name in ("timestamp", "date")
        if column.type.name == "binary" or not (
            STATISTICS[name](column.type) or (name == "median" and is_time)
        ):
            raise SpecError(f"there is no {name} of it.")
        found = scope.fitted(column, name)
        return None if found is None else Literal(column.type, fitted(found[name], column.type))
