"""`map_values`: values replaced by others, one by one or by range."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from featurestore.errors import SpecError
from featurestore.expressions import Column, Expression, Literal
from featurestore.expressions.build import call, constant, to_type
from featurestore.expressions.nodes import NULL
from featurestore.expressions.rules import RuleError, unify
from featurestore.steps.base import ColumnName, Example, Parameters, Scalar
from featurestore.steps.compiler import Scope
from featurestore.types import INT64, DataType


class Ranges(BaseModel):
    """Half-open ranges `[low, high, value]`: low counts, high does not; null leaves a side open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranges: tuple[tuple[Scalar, Scalar, Scalar], ...] = Field(min_length=1)


class Value(BaseModel):
    """A default that is text and reads like a keyword, as `{value: keep}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Scalar


class MapValues(Parameters):
    """Values replaced by others: `mapping: {U: "0"}`, or `mapping: {ranges: [[0, 18, minor], …]}`.

    What no entry names stays (`default: keep`), becomes null (`default: null`) or another value; so does
    null, unless an entry names it: `mapping: {null: none}`. NaN is in no range. In place, or a new column
    with `into:`.
    """

    key: ClassVar[str] = "map_values"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "age", "mapping": {"U": "0"}}, {"age": "U"}, {"age": "0"}),
        Example(
            {
                "column": "age",
                "mapping": {"ranges": [[None, 18, "minor"], [18, 65, "adult"]]},
                "default": "senior",
                "into": "age_group",
            },
            {"age": 18},
            {"age": 18, "age_group": "adult"},
        ),
    )

    column: ColumnName
    mapping: Ranges | dict[Any, Scalar] = Field(
        description="Value to value, or {ranges: [[low, high, value], …]}.", union_mode="left_to_right"
    )
    default: Scalar | Value = Field(
        "keep", description="keep, null, or the value of what no entry names; the text keep is {value: keep}."
    )
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign a look-up or a choice between ranges."""
        column = scope.column(self.column)
        mapped = self._ranges if isinstance(self.mapping, Ranges) else self._values
        scope.put(self.column, self.into, mapped(column, scope))

    def _default(self, column: Column) -> Expression:
        if self.default == "keep":
            return column
        return constant(self.default.value if isinstance(self.default, Value) else self.default)

    def _result(self, column: Column, values: list[Literal]) -> DataType:
        """Return the type of the column after it: its own where what is kept and what is new fit it."""
        default = self._default(column)
        try:
            kind = unify([default, *values])
        except RuleError as error:
            raise SpecError(
                f"What '{self.column}' keeps and its new values go in no one column: {error}.",
                hint="Say default: null, or a value of the new type.",
            ) from None
        return kind if kind != NULL else column.type

    def _values(self, column: Column, scope: Scope) -> Expression:
        assert isinstance(self.mapping, dict)
        if not self.mapping:
            raise SpecError("The mapping is empty.")
        values = [constant(value) for value in self.mapping.values()]
        kind = self._result(column, values)
        default = to_type(self._default(column), kind)
        pairs: list[Expression] = []
        found: dict[Any, Any] = {}
        for key, value in zip(self.mapping, values, strict=True):
            if key is None:
                continue
            entry = scope.constant(read_key(key, column.type), column.type)
            if entry.value in found:
                raise SpecError(f"{entry.sql} is mapped twice.")
            found[entry.value] = key
            pairs += [entry, to_type(value, kind)]
        mapped = call("lookup", column, default, *pairs) if pairs else default
        if None in self.mapping:
            null = to_type(constant(self.mapping[None]), kind)
            return call("case", call("is_null", column), null, mapped)
        return mapped

    def _ranges(self, column: Column, scope: Scope) -> Expression:
        assert isinstance(self.mapping, Ranges)
        if not (column.type.is_number or column.type.name in ("timestamp", "date")):
            raise SpecError(f"Ranges need a number or a time, and '{self.column}' is {column.type}.")
        kind = self._result(column, [constant(value) for _, _, value in self.mapping.ranges])
        edges = []
        for low, high, value in self.mapping.ranges:
            begin, end = (None if edge is None else self._edge(edge, column, scope) for edge in (low, high))
            if begin and end and not begin.value < end.value:
                raise SpecError(f"The range [{low}, {high}) is empty.")
            edges.append((begin, end, to_type(constant(value), kind)))
        _check_apart(edges)
        default = to_type(self._default(column), kind)
        branches: list[Expression] = []
        if column.type.is_float:
            branches += [call("is_nan", column), default]
        for begin, end, mapped in edges:
            branches += [_within(column, begin, end), mapped]
        return call("case", *branches, default)

    def _edge(self, edge: Scalar, column: Column, scope: Scope) -> Literal:
        kind = DataType("float64") if column.type.is_number and isinstance(edge, float) else column.type
        return scope.constant(edge, kind if not column.type.is_integer or isinstance(edge, float) else INT64)


def read_key(key: Any, kind: DataType) -> Any:
    """Return a mapping's key as a value of `kind`: JSON writes every key as text."""
    if isinstance(key, str):
        try:
            if kind.is_integer:
                return int(key)
            if kind.is_float:
                return float(key)
        except ValueError:
            return key
        if kind.name == "bool" and key in ("true", "false"):
            return key == "true"
    return key


def _within(column: Column, low: Literal | None, high: Literal | None) -> Expression:
    above = call("greater_equal", column, low) if low else None
    below = call("less", column, high) if high else None
    if above is not None and below is not None:
        return call("and", above, below)
    return above or below or call("not", call("is_null", column))


def _check_apart(edges: list[tuple[Literal | None, Literal | None, Expression]]) -> None:
    """Raise SpecError where two ranges overlap."""
    low, high = float("-inf"), float("inf")
    ordered = sorted(
        ((b.value if b else low, e.value if e else high) for b, e, _ in edges), key=lambda edge: edge
    )
    for (_, end), (begin, _) in pairwise(ordered):
        if begin < end:
            raise SpecError(f"Two ranges overlap at {begin}.")
