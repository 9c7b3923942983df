"""A `StepPlan` over single rows: one generated Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from featurestore.expressions.functions import may_overflow
from featurestore.expressions.nodes import RowRejected
from featurestore.expressions.to_closure import Writer
from featurestore.steps.plan import Assign, Check, Filter, Python, Rename, StepPlan

RowFunction = Callable[[dict[str, Any]], dict[str, Any] | None]


def compile_rows(plan: StepPlan, warn: Callable[[str], None] | None = None) -> RowFunction:
    """Return the function from a row to the row after the steps, None where a filter leaves it out.

    Rows are dicts of row values, with all columns of the source; what the steps do not know passes. The
    row itself is not changed. The function raises RowRejected, and calls `warn` with the name of each check
    of severity `warn` that finds the row wrong.
    """
    writer = Writer()
    body = ["    row = dict(row)"]
    for op in plan.ops:
        if isinstance(op, Rename):
            taken = ", ".join(f"row.pop({old!r})" for old, _ in op.names)
            given = ", ".join(f"row[{new!r}]" for _, new in op.names)
            body.append(f"    {given}, = {taken},")
        elif isinstance(op, Python):
            body.append(f"    row.update({writer.constant(_function(op))}(row))")
        elif isinstance(op, Check):
            body += _checked(op, writer, warn)
        else:
            body += _lowered(op, writer)
    body.append("    return row")
    return writer.compile("steps", "row", body)


def _lowered(op: Assign | Filter, writer: Writer) -> list[str]:
    """Return the lines of an assignment or a filter."""
    columns = [f"    {writer.column(name)} = row[{name!r}]" for name in sorted(op.expression.columns)]
    value = writer.result(op.expression)
    line = f"row[{op.name!r}] = {value}" if isinstance(op, Assign) else f"if not {value}: return None"
    return columns + writer.guarded([line], op.expression, op.reason)


def _checked(op: Check, writer: Writer, warn: Callable[[str], None] | None) -> list[str]:
    """Return the lines of a check; none where it would tell nobody."""
    if op.severity == "warn" and warn is None:
        return []
    wrong = f"raise RowRejected({op.reason!r})"
    if op.severity == "warn":
        wrong = f"{writer.constant(warn)}({op.name!r})"
    columns = [f"    {writer.column(name)} = row[{name!r}]" for name in sorted(op.expression.columns)]
    tested = [f"    holds = {writer.code(op.expression)}"]
    if may_overflow(op.expression):
        tested = ["    try:", f"    {tested[0]}", "    except Overflow:", "        holds = False"]
    return [*columns, *tested, "    if holds is False:", f"        {wrong}"]


def _function(op: Python) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the author's function of a row: the same function, over a frame of one row."""

    def run(row: Mapping[str, Any]) -> dict[str, Any]:
        import polars as pl

        from featurestore.expressions.vectors import column, physical
        from featurestore.steps.functions import apply

        inputs = [column([row[field.name]], field.type).alias(field.name) for field in op.inputs]
        frame = pl.DataFrame(inputs) if inputs else pl.DataFrame(height=1)
        outputs, reasons = apply(op, frame)
        if reasons[0] is not None:
            raise RowRejected(reasons[0])
        return {field.name: physical(outputs[field.name]).to_list()[0] for field in op.outputs}

    return run
