"""`derive`: new columns from expressions."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.steps.base import Bare, ColumnName, Example
from featurestore.steps.compiler import Scope


class Derive(Bare[Annotated[dict[ColumnName, str], Field(min_length=1)]]):
    """Columns from expressions, `{name: expression}`, in order: each may use those above it.

    A name that exists is replaced. What an expression makes of null is said of its functions; an integer
    overflow rejects the row.
    """

    key: ClassVar[str] = "derive"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"double": "amount * 2", "more": "double + 1"},
            {"amount": 1.5},
            {"amount": 1.5, "double": 3.0, "more": 4.0},
        ),
    )

    def compile(self, scope: Scope) -> None:
        """Assign each expression."""
        for name, text in self.root.items():
            try:
                scope.assign(name, scope.expression(text))
            except SpecError as error:
                raise SpecError(f"{name}: {error.message}", hint=error.hint) from None
            scope.reveal(name)
