"""`text`: text made plain, measured, or cut into words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.expressions import Expression
from featurestore.expressions.build import call, constant
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope


class Text(Parameters):
    """Text through functions, one after the other: lower, upper, trim, length (int64), tokens (list<string>).

    `tokens` gives the words, the longest runs of letters, digits and underscores or, with `separator:`, the
    parts between separators; `length` after it counts them. Null is null; an empty text has length 0 and no
    tokens. In place, or a new column with `into:`.
    """

    key: ClassVar[str] = "text"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "x", "functions": ["trim", "lower"]}, {"x": " ÄB "}, {"x": "äb"}),
        Example(
            {"column": "x", "functions": ["lower", "tokens"], "into": "words"},
            {"x": "To be, or"},
            {"x": "To be, or", "words": ["to", "be", "or"]},
        ),
        Example(
            {"column": "x", "functions": ["tokens", "length"], "separator": ";"}, {"x": "a;b c"}, {"x": 2}
        ),
    )

    column: ColumnName
    functions: Annotated[
        tuple[Literal["lower", "upper", "trim", "length", "tokens"], ...], Field(min_length=1)
    ]
    separator: str | None = Field(None, min_length=1, description="What parts tokens.")
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign the functions' value."""
        value: Expression = scope.column(self.column)
        if self.separator is not None and "tokens" not in self.functions:
            raise SpecError("separator: goes with tokens.")
        for name in self.functions:
            parts = (constant(self.separator),) if name == "tokens" and self.separator else ()
            value = call(name, value, *parts)
        scope.put(self.column, self.into, value)
