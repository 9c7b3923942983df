"""`select`, `drop` and `rename`: which columns are features, and under which names."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from featurestore.steps.base import Bare, ColumnName, Example
from featurestore.steps.compiler import Scope

Names = Annotated[tuple[ColumnName, ...], Field(min_length=1)]


class Select(Bare[Names]):
    """These columns and no others, in this order, nulls and all.

    The others go out of sight; aggregations and later steps still see them.
    """

    key: ClassVar[str] = "select"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(["b", "a"], {"a": 1, "b": 2, "c": 3}, {"b": 2, "a": 1}),
    )

    def compile(self, scope: Scope) -> None:
        """Show these alone."""
        scope.show(self.root)


class Drop(Bare[Names]):
    """All columns but these. They go out of sight; aggregations and later steps still see them."""

    key: ClassVar[str] = "drop"
    examples: ClassVar[tuple[Example, ...]] = (Example(["b"], {"a": 1, "b": 2}, {"a": 1}),)

    def compile(self, scope: Scope) -> None:
        """Hide these."""
        scope.hide(self.root)


class Rename(Bare[Annotated[dict[ColumnName, ColumnName], Field(min_length=1)]]):
    """New names for columns, `{old: new}`, all at once."""

    key: ClassVar[str] = "rename"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"b": 1, "a": 2}),
    )

    def compile(self, scope: Scope) -> None:
        """Rename them."""
        scope.rename(self.root)
