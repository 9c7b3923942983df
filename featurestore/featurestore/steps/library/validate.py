"""`validate`: tests of each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from featurestore.errors import SpecError
from featurestore.expressions import Column, Expression
from featurestore.expressions.build import call, cast, constant
from featurestore.expressions.functions.casts import castable
from featurestore.steps.base import NAME, Bound, ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope
from featurestore.types import STRING, DataType

Rule = tuple[str, Expression, str]
"""A test's name, its expression, and what is wrong where that is false."""


class Validate(Parameters):
    """Tests of each row: of a column (null, type, range, length, regex, allowed values), or a condition.

    A row that a test finds wrong is counted and, by `severity:`, stays (`warn`), becomes a dead letter
    (`reject`, the default), or stops the batch: with `fail`, an input that holds such a row is not ingested
    at all. In a stream and in push, `fail` is as `reject`; a request's base row that is refused is INVALID.

    Null passes every test but `not_null` and `type`; with `not_null: false` it passes `type` too. A
    condition that is null passes. NaN is in no range. `type` asks whether a text spells a value of the type,
    or a number fits it without loss. Lengths count code points. `regex` (of Python) has to fit the whole
    text. A test is counted as `<column>.<rule>`, such as `amount.min`; `name:` takes the column's place, and
    names a condition.
    """

    key: ClassVar[str] = "validate"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "amount", "not_null": True, "min": 0}, {"amount": 5.0}, {"amount": 5.0}),
        Example({"column": "age", "type": "int64", "severity": "warn"}, {"age": "U"}, {"age": "U"}),
        Example({"condition": "paid <= due", "name": "paid"}, {"paid": 1, "due": 2}, {"paid": 1, "due": 2}),
    )

    column: ColumnName | None = None
    not_null: bool | None = Field(None, description="true: null is wrong; false: null is of every type.")
    type: str | None = Field(None, description="The type that a text spells, or that a number fits.")
    min: Bound | None = Field(None, description="The least value; text for times.")
    max: Bound | None = Field(None, description="The greatest value; text for times.")
    min_length: Annotated[int, Field(ge=0)] | None = Field(None, description="The fewest code points.")
    max_length: Annotated[int, Field(ge=0)] | None = Field(None, description="The most code points.")
    regex: str | None = Field(None, description="What the whole text has to fit.")
    allowed: Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)] | None = Field(
        None, description="The values that may be."
    )
    condition: str | None = Field(None, description="A condition over the row's columns; no column: then.")
    severity: Literal["warn", "reject", "fail"] = Field(
        "reject", description="What becomes of a wrong row: it stays, is a dead letter, or stops the batch."
    )
    name: Annotated[str, Field(pattern=NAME)] | None = Field(None, description="What it is counted as.")

    @model_validator(mode="after")
    def _complete(self) -> Validate:
        rules = self.model_fields_set - {"column", "severity", "name", "condition"}
        if (self.column is None) == (self.condition is None):
            raise ValueError("say column: and what its values must be, or condition:.")
        if self.column is None and rules:
            raise ValueError(f"{sorted(rules)[0]}: is a column's.")
        said = [rule for rule in rules if getattr(self, rule) is not None and rule != "not_null"]
        if self.column is not None and not said and not self.not_null:
            raise ValueError("say what must hold: not_null, type, min, max, regex, allowed, …")
        for low, high in (("min", "max"), ("min_length", "max_length")):
            least, most = getattr(self, low), getattr(self, high)
            if isinstance(least, (int, float)) and isinstance(most, (int, float)) and least > most:
                raise ValueError(f"{low}: {least} is above {high}: {most}.")
        return self

    def compile(self, scope: Scope) -> None:
        """Add a check for each rule."""
        if self.condition is not None:
            holds = scope.condition(self.condition)
            text = " ".join(self.condition.split())
            scope.check(self.name or "condition", holds, self.severity, f"{text} is false")
            return
        assert self.column is not None
        for rule, holds, message in self._rules(scope.column(self.column), scope):
            scope.check(f"{self.name or self.column}.{rule}", holds, self.severity, message)

    def _rules(self, column: Column, scope: Scope) -> Iterator[Rule]:
        shown = f"'{self.column}'"
        if self.not_null:
            yield "not_null", call("not", call("is_null", column)), f"{shown} is null"
        if self.type is not None:
            kind = DataType.parse(self.type)
            yield "type", self._is_of(column, kind), f"{shown} is no {kind}"
        if self.min is not None:
            yield "min", _in_range(column, "greater_equal", self.min), f"{shown} is not {self.min} or more"
        if self.max is not None:
            yield "max", _in_range(column, "less_equal", self.max), f"{shown} is not {self.max} or less"
        length = None if self.min_length is self.max_length is None else call("length", column)
        if length is not None and self.min_length is not None:
            fits = call("greater_equal", length, constant(self.min_length))
            yield "min_length", fits, f"{shown} is shorter than {self.min_length}"
        if length is not None and self.max_length is not None:
            fits = call("less_equal", length, constant(self.max_length))
            yield "max_length", fits, f"{shown} is longer than {self.max_length}"
        if self.regex is not None:
            yield "regex", call("matches", column, constant(self.regex)), f"{shown} does not fit {self.regex}"
        if self.allowed is not None:
            values = [scope.constant(value, column.type) for value in self.allowed]
            yield "allowed", call("in", column, *values), f"{shown} is none of the allowed values"

    def _is_of(self, column: Column, kind: DataType) -> Expression:
        """Return whether a value is of a type: castable to it and, but for text, back to itself."""
        there = cast(column, kind)
        holds = call("not", call("is_null", there))
        if column.type not in (kind, STRING) and castable(kind, column.type):
            holds = call("and", holds, call("equal", cast(there, column.type), column))
        if self.not_null is False:
            return call("or", call("is_null", column), holds)
        return holds


def _in_range(column: Column, comparison: str, bound: int | float | str) -> Expression:
    """Return whether a value is on the right side of a bound, on which NaN is not."""
    if not (column.type.is_number or column.type.name in ("timestamp", "date", "string")):
        raise SpecError(f"A range needs a number, a time or text, and '{column.name}' is {column.type}.")
    holds = call(comparison, column, constant(bound))
    if column.type.is_float:
        return call("and", call("not", call("is_nan", column)), holds)
    return holds
