"""The compiled form of a set's steps: few kinds of operations, types resolved, a text to fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featurestore.expressions import Call, Expression
from featurestore.types import Field


@dataclass(frozen=True)
class Assign:
    """`name` becomes the expression's value. `reason` rejects the rows where integers overflow."""

    name: str
    expression: Expression
    reason: str


@dataclass(frozen=True)
class Filter:
    """Only rows where the expression is true stay."""

    expression: Expression
    reason: str


@dataclass(frozen=True)
class Rename:
    """Columns take new names, all at once."""

    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Python:
    """The author's function of a frame of `inputs` gives a frame of `outputs`, row by row."""

    function: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    digest: str


@dataclass(frozen=True)
class Check:
    """A test of each row. One for which the expression is false, or overflows, is counted; null passes.

    `severity` says what else becomes of it: `warn` nothing, `reject` and `fail` reject it for `reason`;
    a batch input with one that fails is not ingested at all (DESIGN 3.14: streams go on).
    """

    name: str
    expression: Expression
    severity: str
    reason: str


@dataclass(frozen=True)
class Explode:
    """One row for each item of the list in `column`, which becomes `into`; `index` is the item's number.

    A row whose list is null or empty goes.
    """

    column: str
    into: str
    index: str | None


@dataclass(frozen=True)
class Table:
    """The rows of a static table: the values, as row values, by the values that find them."""

    digest: str
    rows: Mapping[tuple[Any, ...], tuple[Any, ...]] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Join:
    """`outputs` become the values of the table's row that `on` finds; null where it finds none."""

    on: tuple[Field, ...]
    outputs: tuple[Field, ...]
    table: Table


Operation = Assign | Filter | Rename | Python | Check | Explode | Join


@dataclass(frozen=True)
class FitNeed:
    """Statistics that a step takes from a column, as it is before the step; `step` is the step's number."""

    step: int
    column: Field
    statistics: tuple[str, ...]


@dataclass(frozen=True)
class StepPlan:
    """Operations in order, and the columns after them.

    `visible` are the features, in order; `columns` all working columns, with what `select`, `drop` and
    `one_hot` took out of sight; `text` is canonical, for fingerprints. A plan with `needs` awaits their
    fit: it has the types of the rows to come, and null for what is to be fitted.
    """

    ops: tuple[Operation, ...]
    visible: tuple[Field, ...]
    columns: tuple[Field, ...]
    text: str
    needs: tuple[FitNeed, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """The tests of rows, in order."""
        return tuple(op for op in self.ops if isinstance(op, Check))

    @property
    def explodes(self) -> bool:
        """Whether one row may become many."""
        return any(isinstance(op, Explode) for op in self.ops)


def lenient(ops: Sequence[Operation]) -> tuple[Operation, ...]:
    """Return the operations for deletions: no filter, no check and no unknown value holds one back."""
    return tuple(
        replace(op, expression=_taking_all(op.expression)) if isinstance(op, Assign) else op
        for op in ops
        if not isinstance(op, (Filter, Check))
    )


def _taking_all(expression: Expression) -> Expression:
    """Return the expression with what `unknown: reject` refuses taken as it is."""
    if not isinstance(expression, Call):
        return expression
    arguments = tuple(map(_taking_all, expression.arguments))
    return arguments[0] if expression.function == "known" else replace(expression, arguments=arguments)
