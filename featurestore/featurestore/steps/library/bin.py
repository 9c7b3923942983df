"""`bin`: a number's interval between edges."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from featurestore.errors import SpecError
from featurestore.expressions import Column, Expression, Literal
from featurestore.expressions.build import call, constant
from featurestore.steps.base import Bound, ColumnName, Example, Parameters, Scalar
from featurestore.steps.compiler import Scope
from featurestore.types import INT64


class Bin(Parameters):
    """The interval that a value lies in: how many edges are at or below it (int64), or that one's label.

    n edges make n + 1 intervals, 0 below the first edge, n from the last on; an edge begins its
    interval. Null and NaN give null. In place, or a new column with `into:`.

    With `quantiles: n` the edges are the 1/n, 2/n, … quantiles of the values that `featurestore fit` sees:
    of the sorted values, at (count - 1) k / n, linear between neighbours; equal edges are one.
    """

    key: ClassVar[str] = "bin"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "x", "edges": [0, 10]}, {"x": 10.0}, {"x": 2}),
        Example(
            {"column": "x", "edges": [0, 10], "labels": ["low", "mid", "high"], "into": "level"},
            {"x": 3},
            {"x": 3, "level": "mid"},
        ),
        Example(
            {"column": "x", "quantiles": 4}, {"x": 7.0}, {"x": 2}, fits={"x": {"quantiles_4": [2, 5.5, 9]}}
        ),
    )

    column: ColumnName
    edges: Annotated[tuple[Bound, ...], Field(min_length=1, description="Rising.")] | None = None
    quantiles: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None, description="Into how many intervals of equally many values, fitted; in place of edges."
    )
    labels: tuple[Scalar, ...] | None = Field(None, description="One more than edges.")
    into: ColumnName | None = None

    @model_validator(mode="after")
    def _complete(self) -> Bin:
        if (self.edges is None) == (self.quantiles is None):
            raise ValueError("say edges: or quantiles:.")
        if self.quantiles is not None and self.labels is not None:
            raise ValueError("labels: go with edges:, for quantiles that are equal are one edge.")
        return self

    def compile(self, scope: Scope) -> None:
        """Assign the index, or the label of the index."""
        column = scope.column(self.column)
        if self.quantiles is not None:
            index = self._by_quantiles(column, self.quantiles, scope)
        else:
            index = call("bin", column, *map(constant, self.edges or ()))
        if self.labels is not None and self.edges is not None:
            if len(self.labels) != len(self.edges) + 1:
                raise SpecError(f"{len(self.edges)} edges need {len(self.edges) + 1} labels.")
            pairs = [x for i, label in enumerate(self.labels) for x in (constant(i), constant(label))]
            index = call("lookup", index, constant(None), *pairs)
        scope.put(self.column, self.into, index)

    def _by_quantiles(self, column: Column, count: int, scope: Scope) -> Expression:
        is_time = column.type.name in ("timestamp", "date")
        if not (column.type.is_number or is_time):
            raise SpecError(f"A number or a time is needed, and '{self.column}' is {column.type}.")
        fitted = scope.fitted(column, f"quantiles_{count}")
        if fitted is None:
            return Literal(INT64, None)
        edges = list(dict.fromkeys(fitted[f"quantiles_{count}"]))
        if is_time:
            return call("bin", column, *(Literal(column.type, edge) for edge in edges))
        return call("bin", column, *(constant(float(edge)) for edge in edges))
