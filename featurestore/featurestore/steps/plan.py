"""The compiled form of a set's steps: few kinds of operations, types resolved, a text to fingerprint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featurestore.expressions import Call, Expression, Literal
from featurestore.expressions.functions import may_overflow
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


def lenient(ops: Sequence[Operation], keys: Collection[str]) -> tuple[Operation, ...]:
    """Return the operations for deletions, of which only the columns `keys` are read.

    No filter, no check and no unknown value holds one back. What else may refuse a row, a number that leaves
    its type or the author's function, is left out where no key comes of it: its columns are null.
    """
    read = set(keys)
    kept: list[Operation] = []
    for op in reversed(ops):
        if isinstance(op, Assign):
            expression = _taking_all(op.expression)
            if op.name in read:
                read = read - {op.name} | expression.columns
            elif may_overflow(expression):
                expression = Literal(expression.type, None)
            kept.append(replace(op, expression=expression))
        elif isinstance(op, Rename):
            before = {new: old for old, new in op.names}
            read = {before.get(name, name) for name in read}
            kept.append(op)
        elif isinstance(op, (Python, Join)):
            made = {field.name for field in op.outputs}
            if read & made:
                read = read - made | {
                    field.name for field in (op.inputs if isinstance(op, Python) else op.on)
                }
            elif isinstance(op, Python):
                kept += [Assign(field.name, Literal(field.type, None), "") for field in reversed(op.outputs)]
                continue
            kept.append(op)
        elif isinstance(op, Explode):
            kept.append(op)
    return tuple(reversed(kept))


def _taking_all(expression: Expression) -> Expression:
    """Return the expression with what `unknown: reject` refuses taken as it is."""
    if not isinstance(expression, Call):
        return expression
    arguments = tuple(map(_taking_all, expression.arguments))
    return arguments[0] if expression.function == "known" else replace(expression, arguments=arguments)
