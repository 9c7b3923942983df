"""`explode`: one row for each item of a list."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.expressions.build import cast
from featurestore.steps import plan
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope
from featurestore.types import JSON, DataType


class Explode(Parameters):
    """One row for each item of a list, or of an array in a json column; the other columns are repeated.

    The column becomes the item (json where it was), or `into:` does; `index:` names a column for its number,
    from 0. A null item makes a row; a null or empty list, and json that is no array, makes none. The rows
    are rows of their own: each has its own hash and, with `event_id:`, its own id, made of the source
    row's and the number. Where a later step refuses one of them, all of the source row are refused. So a set
    with `explode` is no base of a vector, and its source has no `deleted:` and no `on_duplicate: replace`,
    for a newer copy with fewer items could not take the others back.
    """

    key: ClassVar[str] = "explode"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"column": "tags", "into": "tag", "index": "place"},
            {"tags": ["new", None]},
            (
                {"tags": ["new", None], "tag": "new", "place": 0},
                {"tags": ["new", None], "tag": None, "place": 1},
            ),
        ),
        Example({"column": "tags"}, {"tags": ["a", "b"]}, ({"tags": "a"}, {"tags": "b"})),
        Example({"column": "tags"}, {"tags": []}, None),
    )

    column: ColumnName
    into: ColumnName | None = Field(None, description="A column for the item; default, the column itself.")
    index: ColumnName | None = Field(None, description="A column for the item's number, from 0.")

    def compile(self, scope: Scope) -> None:
        """Make rows of the items."""
        column = scope.column(self.column)
        into = self.into or self.column
        if self.index in (into, self.column):
            raise SpecError(f"index: '{self.index}' is the column of the item or of the list.")
        if column.type == JSON:
            scope.assign(into, cast(column, DataType("list", item=JSON)))
            scope.explode(plan.Explode(into, into, self.index))
        elif column.type.name == "list":
            scope.explode(plan.Explode(self.column, into, self.index))
        else:
            raise SpecError(
                f"A list or json is needed, and '{self.column}' is {column.type}.",
                hint="Make it one: text with functions: [tokens], or parse with type: list<…>.",
            )
