"""A `StepPlan` over single rows: one generated Python function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from featurestore.expressions.functions import may_overflow
from featurestore.expressions.nodes import RowRejected
from featurestore.expressions.to_closure import Writer
from featurestore.steps.plan import Assign, Check, Explode, Filter, Join, Operation, Python, Rename, StepPlan

Row = dict[str, Any]
RowFunction = Callable[[Row], Row | None]
EachFunction = Callable[[Row], list[Row]]


def compile_rows(plan: StepPlan, warn: Callable[[str], None] | None = None) -> RowFunction:
    """Return the function from a row to the row after the steps, None where a filter leaves it out.

    Rows are dicts of row values, with all columns of the source; what the steps do not know passes. The
    row itself is not changed. The function raises RowRejected, and calls `warn` with the name of each check
    of severity `warn` that finds the row wrong. Where one row may become many, see `compile_each`.
    """
    if plan.explodes:
        raise ValueError("the steps make many rows of one")
    return _compiled(plan.ops, warn)


def compile_each(plan: StepPlan) -> EachFunction:
    """Return the function from a row to its rows after the steps, in the order of the items of `explode`.

    As `compile_rows`; where one of the rows is rejected, all are.
    """
    parts: list[list[Operation]] = [[]]
    explodes: list[Explode] = []
    for op in plan.ops:
        if isinstance(op, Explode):
            explodes.append(op)
            parts.append([])
        else:
            parts[-1].append(op)
    functions = [_compiled(part) for part in parts]

    def rows(row: Row, level: int) -> Iterator[Row]:
        done = functions[level](row)
        if done is None:
            return
        if level == len(explodes):
            yield done
            return
        for item in _items(explodes[level], done):
            yield from rows(item, level + 1)

    return lambda row: list(rows(row, 0))


def _items(op: Explode, row: Row) -> Iterator[Row]:
    """Yield the row of each item."""
    for index, item in enumerate(row[op.column] or ()):
        made = {**row, op.into: item}
        if op.index is not None:
            made[op.index] = index
        yield made


def _compiled(ops: Sequence[Operation], warn: Callable[[str], None] | None = None) -> RowFunction:
    """Return the function of operations of which each gives one row or none."""
    writer = Writer()
    body = ["    row = dict(row)"]
    for op in ops:
        if isinstance(op, Rename):
            taken = ", ".join(f"row.pop({old!r})" for old, _ in op.names)
            given = ", ".join(f"row[{new!r}]" for _, new in op.names)
            body.append(f"    {given}, = {taken},")
        elif isinstance(op, Python):
            body.append(f"    row.update({writer.constant(_function(op))}(row))")
        elif isinstance(op, Join):
            body.append(f"    row.update({writer.constant(_found(op))}(row))")
        elif isinstance(op, Check):
            body += _checked(op, writer, warn)
        elif not isinstance(op, Explode):
            body += _lowered(op, writer)
    body.append("    return row")
    return writer.compile("steps", "row", body)


def _lowered(op: Assign | Filter, writer: Writer) -> list[str]:
    """Return the lines of an assignment or a filter."""
    columns = [f"    {writer.column(name)} = row[{name!r}]" for name in sorted(op.expression.columns)]
    value = writer.result(op.expression)
    line = f"row[{op.name!r}] = {value}" if isinstance(op, Assign) else f"if not {value}: return None"
    return columns + writer.guarded([line], op.expression, op.reason)


def _found(op: Join) -> Callable[[Row], Row]:
    """Return the function from a row to the columns that a static table gives it."""
    on = [field.name for field in op.on]
    names = [field.name for field in op.outputs]
    made = {key: dict(zip(names, values, strict=True)) for key, values in op.table.rows.items()}
    nothing: Row = dict.fromkeys(names)

    def find(row: Row) -> Row:
        return made.get(tuple(row[name] for name in on), nothing)

    return find


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
