"""`cast` and `impute`: columns as other types, and constants for nulls."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.expressions.build import call, cast
from featurestore.steps.base import Bare, ColumnName, Example
from featurestore.steps.compiler import Scope
from featurestore.types import DataType


class Cast(Bare[Annotated[dict[ColumnName, str], Field(min_length=1)]]):
    """Columns as other types, `{column: type}`, in place.

    Text that spells no value is null; a number that does not fit rejects the row; to integers, half to
    even.
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
    """Constants for nulls, `{column: constant}`, in place. NaN is not null."""

    key: ClassVar[str] = "impute"
    examples: ClassVar[tuple[Example, ...]] = (Example({"age": 0}, {"age": None}, {"age": 0}),)

    def compile(self, scope: Scope) -> None:
        """Assign each column or its constant."""
        for name, value in self.root.items():
            column = scope.column(name)
            if isinstance(value, str) and value.startswith("$"):
                raise SpecError(
                    f"'{name}': '{value}' is a fitted value, and a step takes constants.",
                    hint="Impute it in the feature vector, whose values `featurestore fit` fits.",
                )
            try:
                filled = scope.constant(value, column.type)
            except SpecError as error:
                raise SpecError(f"'{name}' is {column.type}: {error.message}", hint=error.hint) from None
            scope.assign(name, call("coalesce", column, filled))
