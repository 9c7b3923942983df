"""`one_hot`: a category as one 0/1 column per value."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.expressions import Expression
from featurestore.expressions.build import call, cast, constant
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope
from featurestore.steps.library.categories import UNKNOWN
from featurestore.types import INT8


class OneHot(Parameters):
    """One int8 column `<column>_<value>` per declared value: 1 where the row has it, else 0.

    A value that is not declared gives all zeros (`unknown: zeros`, the default), all null (`unknown: null`),
    or rejects the row (`unknown: reject`). Null gives all zeros, all null with `unknown: null`. The column
    goes out of sight unless `keep: true`. In names, characters other than letters, digits and underscores
    become underscores.
    """

    key: ClassVar[str] = "one_hot"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "gender", "values": ["F", "M"]}, {"gender": "F"}, {"gender_F": 1, "gender_M": 0}),
        Example(
            {"column": "gender", "values": ["F", "M"], "unknown": None},
            {"gender": "X"},
            {"gender_F": None, "gender_M": None},
        ),
    )

    column: ColumnName
    values: Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]
    unknown: Literal["zeros", "null", "reject"] | None = Field(
        "zeros", description="What a value that is not declared gives: zeros, null or reject."
    )
    keep: bool = Field(False, description="Keep the column itself in sight.")

    def compile(self, scope: Scope) -> None:
        """Assign one column per value."""
        column = scope.column(self.column)
        if not self.keep:
            scope.hide([self.column])
        made: dict[str, object] = {}
        listed = [scope.constant(value, column.type) for value in self.values]
        read: Expression = call("known", column, *listed) if self.unknown == "reject" else column
        for value, entry in zip(self.values, listed, strict=True):
            name = f"{self.column}_{sanitised(value)}"
            if name in made:
                raise SpecError(f"{made[name]!r} and {value!r} both give '{name}'.", hint="Map one first.")
            if name in scope.types:
                raise SpecError(f"'{name}' for {value!r} is a column already.", hint="Rename that one first.")
            made[name] = value
            place = cast(call("coalesce", call("equal", read, entry), constant(False)), INT8)
            if self.unknown in ("null", None):
                place = call("case", call("in", column, *listed), place, constant(None))
            scope.assign(name, place, UNKNOWN)
            read = column


def sanitised(value: bool | int | float | str) -> str:
    """Return a value as the part of a column name."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9_]", "_", text)
