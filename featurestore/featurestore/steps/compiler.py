"""Steps to a `StepPlan`: names resolved, types checked, places of errors kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions import Column, Expression, Literal, parse
from featurestore.expressions.build import constant, to_type
from featurestore.expressions.to_closure import reason
from featurestore.steps.base import NAME, Step
from featurestore.steps.plan import (
    Assign,
    Check,
    Explode,
    Filter,
    FitNeed,
    Join,
    Operation,
    Python,
    Rename,
    StepPlan,
)
from featurestore.types import BOOL, INT64, DataType, Field

Fitted = Mapping[str, Mapping[str, Any]]
"""What is fitted for one step: column to statistic to value."""


def compile_steps(
    steps: Sequence[Step],
    schema: tuple[Field, ...],
    *,
    where: Callable[[int], str] | None = None,
    fits: Sequence[Fitted] = (),
) -> StepPlan:
    """Return the plan of `steps` over rows of `schema`.

    `where(i)` is the place of step i, as file:line; `fits[i]` what is fitted for it: what is not is in the
    plan's `needs`. Raises SpecError for the first step that is wrong.
    """
    scope = Scope(schema)
    for index, step in enumerate(steps):
        scope.enter(index, step.key, fits[index] if index < len(fits) else {})
        try:
            step.compile(scope)
        except SpecError as error:
            place = where(index) if where else f"step {index + 1}"
            raise SpecError(f"{step.key}: {error.message}", where=place, hint=error.hint) from None
    return scope.plan()


class Scope:
    """The columns as they are after the steps so far, and the operations that made them."""

    def __init__(self, schema: tuple[Field, ...]) -> None:
        self.step = ""
        self._types: dict[str, DataType] = {field.name: field.type for field in schema}
        self._visible: list[str] = list(self._types)
        self._ops: list[Operation] = []
        self._index = 0
        self._fits: Fitted = {}
        self._needs: list[FitNeed] = []

    def enter(self, index: int, step: str, fits: Fitted) -> None:
        """Go on to another step, for which `fits` are fitted."""
        self.step = step
        self._index = index
        self._fits = fits

    @property
    def types(self) -> Mapping[str, DataType]:
        """The types of all columns, in sight or not."""
        return self._types

    @property
    def visible(self) -> tuple[Field, ...]:
        """The columns in sight, in order."""
        return tuple(Field(name, self._types[name]) for name in self._visible)

    def column(self, name: str) -> Column:
        """Return a column that exists. Raises SpecError with the nearest name."""
        if name not in self._types:
            raise SpecError(f"There is no column '{name}'.", hint=did_you_mean(name, self._types))
        return Column(self._types[name], name)

    def expression(self, text: str) -> Expression:
        """Return the typed expression of SQL text over the columns so far."""
        return parse(text, self._types)

    def condition(self, text: str) -> Expression:
        """Return an expression that is true or false."""
        expression = self.expression(text)
        if expression.type != BOOL:
            raise SpecError(
                f"A condition is needed, and '{text}' is {expression.type}.", hint="Compare it, as in x > 0."
            )
        return expression

    def constant(self, value: Any, kind: DataType) -> Literal:
        """Return a constant as a literal of a type. Raises SpecError where it is none of that type."""
        literal = to_type(constant(value), kind)
        assert isinstance(literal, Literal)
        return literal

    def assign(self, name: str, expression: Expression, why: str | None = None) -> None:
        """Give a column a value. A new one comes last and in sight; an old one stays where it was.

        `why` is the reason, as "code: text", where the expression rejects rows for another than overflow.
        """
        self._place(name, expression.type)
        self._ops.append(Assign(name, expression, f"{why or reason(expression)} ({self.step} '{name}')"))

    def put(self, column: str, into: str | None, expression: Expression, why: str | None = None) -> None:
        """Give `column` a value in place or, where there is `into`, give it to that one, in sight."""
        self.assign(into or column, expression, why)
        if into:
            self.reveal(into)

    def _place(self, name: str, kind: DataType) -> None:
        """Note a column's type; a new one is in sight, last."""
        if name not in self._types:
            if not re.match(NAME, name):
                raise SpecError(
                    f"'{name}' is no column name.", hint="Use letters, digits, underscores; a letter first."
                )
            self._visible.append(name)
        self._types[name] = kind

    def filter(self, condition: Expression) -> None:
        """Keep only rows where the condition is true."""
        self._ops.append(Filter(condition, f"{reason(condition)} ({self.step})"))

    def check(self, name: str, holds: Expression, severity: str, message: str) -> None:
        """Test each row; `message` says what is wrong where the expression is false."""
        if any(isinstance(op, Check) and op.name == name for op in self._ops):
            raise SpecError(f"There is a check '{name}' already.", hint="Tell them apart with name:.")
        self._ops.append(Check(name, holds, severity, f"{self.step}: {name}: {message}"))

    def fitted(self, column: Column, *statistics: str) -> Mapping[str, Any] | None:
        """Return statistics of a column as it is before this step; None where they are not fitted yet."""
        found = self._fits.get(column.name)
        if found is not None and all(statistic in found for statistic in statistics):
            return found
        self._needs.append(FitNeed(self._index, Field(column.name, column.type), statistics))
        return None

    def rename(self, names: Mapping[str, str]) -> None:
        """Give columns new names, all at once."""
        for old, new in names.items():
            self.column(old)
            if (new in self._types and new not in names) or list(names.values()).count(new) > 1:
                raise SpecError(f"'{old}' cannot become '{new}', which is another column's name.")
        self._types = {names.get(name, name): kind for name, kind in self._types.items()}
        self._visible = [names.get(name, name) for name in self._visible]
        self._ops.append(Rename(tuple(names.items())))

    def show(self, names: Sequence[str]) -> None:
        """Take all but these columns out of sight, and put these in this order."""
        for name in names:
            self.column(name)
        self._visible = list(dict.fromkeys(names))

    def hide(self, names: Sequence[str]) -> None:
        """Take columns out of sight; they stay for aggregations and later steps."""
        for name in names:
            self.column(name)
        self._visible = [name for name in self._visible if name not in names]

    def reveal(self, name: str) -> None:
        """Put a column in sight, last, unless it is."""
        if name not in self._visible:
            self._visible.append(name)

    def python(self, op: Python) -> None:
        """Let the author's function give columns."""
        for field in op.outputs:
            self._types[field.name] = field.type
            self.reveal(field.name)
        self._ops.append(op)

    def explode(self, op: Explode) -> None:
        """Make one row of each item of a list."""
        item = self._types[op.column].item
        assert item is not None
        self._place(op.into, item)
        self.reveal(op.into)
        if op.index is not None:
            self._place(op.index, INT64)
            self.reveal(op.index)
        self._ops.append(op)

    def join(self, op: Join) -> None:
        """Add columns of a static table."""
        for field in op.outputs:
            self._place(field.name, field.type)
        self._ops.append(op)

    def plan(self) -> StepPlan:
        """Return what the steps so far compile to."""
        columns = tuple(Field(name, kind) for name, kind in self._types.items())
        lines = [_line(op) for op in self._ops if not isinstance(op, Check) or op.severity != "warn"]
        lines.append("visible " + ", ".join(f"{field.name} {field.type}" for field in self.visible))
        lines.append("columns " + ", ".join(f"{field.name} {field.type}" for field in columns))
        return StepPlan(tuple(self._ops), self.visible, columns, "\n".join(lines), tuple(self._needs))


def _line(op: Operation) -> str:
    """Return an operation as a line of canonical text."""
    if isinstance(op, Assign):
        return f"assign {op.name} {op.expression.type} = {op.expression.sql}"
    if isinstance(op, Filter):
        return f"filter {op.expression.sql}"
    if isinstance(op, Check):
        return f"check {op.expression.sql}"
    if isinstance(op, Rename):
        return "rename " + ", ".join(f"{old} to {new}" for old, new in op.names)
    if isinstance(op, Explode):
        return f"explode {op.column} to {op.into}" + (f" with {op.index}" if op.index else "")
    if isinstance(op, Join):
        found = ", ".join(f"{f.name} {f.type}" for f in op.outputs)
        return f"join {', '.join(f.name for f in op.on)} to {found} sha256 {op.table.digest}"
    inputs, outputs = (", ".join(f"{f.name} {f.type}" for f in fields) for fields in (op.inputs, op.outputs))
    return f"python {op.function} ({inputs}) to ({outputs}) sha256 {op.digest}"
