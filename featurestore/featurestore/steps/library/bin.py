"""`bin`: a number's interval between edges."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from featurestore.errors import SpecError
from featurestore.expressions.build import call, constant
from featurestore.steps.base import ColumnName, Example, Parameters, Scalar
from featurestore.steps.compiler import Scope


class Bin(Parameters):
    """The interval that a value lies in: how many edges are at or below it (int64), or that one's label.

    n edges make n + 1 intervals, 0 below the first edge, n from the last on; an edge begins its
    interval. Null and NaN give null. In place, or a new column with `into:`.
    """

    key: ClassVar[str] = "bin"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "x", "edges": [0, 10]}, {"x": 10.0}, {"x": 2}),
        Example(
            {"column": "x", "edges": [0, 10], "labels": ["low", "mid", "high"], "into": "level"},
            {"x": 3},
            {"x": 3, "level": "mid"},
        ),
    )

    column: ColumnName
    edges: Annotated[tuple[int | float | str, ...], Field(min_length=1, description="Rising.")]
    labels: tuple[Scalar, ...] | None = Field(None, description="One more than edges.")
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign the index, or the label of the index."""
        index = call("bin", scope.column(self.column), *map(constant, self.edges))
        if self.labels is not None:
            if len(self.labels) != len(self.edges) + 1:
                raise SpecError(f"{len(self.edges)} edges need {len(self.edges) + 1} labels.")
            pairs = [x for i, label in enumerate(self.labels) for x in (constant(i), constant(label))]
            index = call("lookup", index, constant(None), *pairs)
        target = self.into or self.column
        scope.assign(target, index)
        if self.into:
            scope.reveal(target)
