"""The author's functions of `python` steps: found, fingerprinted, run and checked."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import OperatorError, SpecError, did_you_mean
from featurestore.expressions import RowRejected
from featurestore.rows.vectors import matrix, why_not
from featurestore.types import JSON, DataType

if TYPE_CHECKING:
    import polars as pl

    from featurestore.steps.plan import Python


@functools.cache
def load(reference: str) -> Callable[..., Any]:
    """Return the function that `module:name` names. Raises SpecError where there is none."""
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise SpecError(
            f"The module '{module_name}' cannot be imported: {error}.",
            hint="Put it in the project's folder or install it.",
        ) from None
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise SpecError(f"'{module_name}' has no function '{name}'.", hint=did_you_mean(name, known))
    return function


@functools.cache
def digest(reference: str) -> str:
    """Return the sha256 of the source of the function's module. What that imports is not covered."""
    module = inspect.getmodule(load(reference))
    try:
        source = "" if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        source = ""
    if not source:
        raise SpecError(
            f"The source of '{reference}' cannot be read.", hint="Name a function that is defined in a file."
        )
    return hashlib.sha256(source.encode()).hexdigest()


class FunctionChanged(OperatorError):
    """A version whose Python function is no longer there as it was."""

    code = "function_changed"


def check(function: str, expected: str) -> None:
    """Raise FunctionChanged where a function is not the one that a version was applied with."""
    if digest(function) != expected:
        raise FunctionChanged(
            f"The module of '{function}' is not the one that this version was applied with.",
            hint="Run featurestore apply for a new version, or restore the module;"
            " projects in one process must not share a module's name.",
        )


def apply(op: Python, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str | None]]:
    """Return the output columns of all rows, and per row why it is rejected, or None.

    Where the whole batch fails, each row is tried by itself, as it would be online.
    """
    import polars as pl

    check(op.function, op.digest)
    schema = {field.name: field.type.polars() for field in op.outputs}
    if not frame.height:
        return pl.DataFrame(schema=schema), []
    try:
        return _call(op, frame), [None] * frame.height
    except RowRejected as error:
        if frame.height == 1:
            return pl.DataFrame({name: [None] for name in schema}, schema=schema), [error.reason]
    parts, reasons = [], []
    for i in range(frame.height):
        part, reason = apply(op, frame.slice(i, 1))
        parts.append(part)
        reasons += reason
    return pl.concat(parts), reasons


def _call(op: Python, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the output columns, exactly typed. Raises RowRejected with what went wrong."""
    import polars as pl

    try:
        result = load(op.function)(frame)
    except Exception as error:  # noqa: BLE001 - the author's code raises what it likes; a row must not stop a stream
        raise RowRejected(f"python: {op.function} raised {type(error).__name__}: {error}") from None
    if not isinstance(result, pl.DataFrame):
        raise RowRejected(f"python: {op.function} returned {type(result).__name__}, not a Polars DataFrame")
    missing = [field.name for field in op.outputs if field.name not in result.columns]
    if missing:
        raise RowRejected(f"python: {op.function} returned no column {', '.join(missing)}")
    if result.height != frame.height:
        raise RowRejected(f"python: {op.function} returned {result.height} rows for {frame.height}")
    return pl.DataFrame([_typed(op, result[field.name], field.type) for field in op.outputs])


def _typed(op: Python, series: pl.Series, declared: DataType) -> pl.Series:
    """Return the column as declared where nothing is lost by it. Raises RowRejected otherwise."""
    import polars as pl

    found, kind = series.dtype, declared.polars()
    if declared.name == "vector" and isinstance(found, (pl.List, pl.Array)) and found.inner.is_numeric():
        return _vectors(op, series, declared)
    if declared == JSON:
        return _documents(op, series)
    if found == kind:
        return series
    alike = (
        found == pl.Null
        or (found.is_integer() and kind.is_integer())
        or (found.is_numeric() and kind.is_float())
        or (isinstance(found, pl.Datetime) and found.time_zone == "UTC" and isinstance(kind, pl.Datetime))
        or (isinstance(found, pl.List) and isinstance(kind, pl.List))
    )
    try:
        if alike:
            return series.cast(kind, strict=True)
    except pl.exceptions.InvalidOperationError:
        pass
    raise RowRejected(f"python: {op.function} returned {found} in '{series.name}', declared {kind}")


def _documents(op: Python, series: pl.Series) -> pl.Series:
    """Return text, structs or lists as canonical documents. Raises RowRejected where one is none."""
    from featurestore.rows import casting

    try:
        cast = casting.cast(series, JSON, casting.Context(op.function))
    except SpecError as error:
        raise RowRejected(f"python: {error.message}") from None
    for mask in cast.bad.values():
        raise RowRejected(
            f"python: {op.function} returned no json in '{series.name}': {series[int(mask.argmax())]!r:.80}"
        )
    return cast.values


def _vectors(op: Python, series: pl.Series, kind: DataType) -> pl.Series:
    """Return a column of lists, or of numpy rows, as vectors. Raises RowRejected where one is none."""
    import polars as pl

    lists = series if isinstance(series.dtype, pl.List) else series.arr.to_list()
    holes = lists.list.eval(pl.element().is_null()).list.any()
    misfit = ((lists.list.len() != kind.size) | holes).fill_null(False)
    if misfit.any():
        value = lists.filter(misfit)[0]
        raise RowRejected(
            f"python: {op.function} returned no {kind} in '{series.name}': {why_not(value, kind)}"
        )
    made = lists.cast(kind.polars())
    numbers = matrix(made, kind) + 0.0  # no -0.0, and one NaN
    numbers[np.isnan(numbers)] = np.nan
    return pl.Series(series.name, numbers, dtype=kind.polars()).set(made.is_null(), None)
