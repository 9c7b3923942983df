"""A `StepPlan` over Polars frames."""

from __future__ import annotations

import polars as pl

from featurestore.expressions.to_polars import rejects, to_polars
from featurestore.steps import functions
from featurestore.steps.plan import Assign, Check, Filter, Operation, Python, Rename, StepPlan

REASON = "__reason"
_ROW = "__row"
_FAILED = "__failed"


def run(
    plan: StepPlan, frame: pl.DataFrame, checks: dict[str, int] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows kept and the rows rejected.

    Kept rows have `plan.columns`, then the frame's columns that no step knows, untouched. Rejected rows
    are those of `frame`, with why in `__reason` ("code: text"). What a filter leaves out is in neither.
    `checks`, where given, has added to it, by the name of each check, how many rows that found wrong.
    """
    work = _Work(frame, {} if checks is None else checks)
    for op in plan.ops:
        work.do(op)
    done, reasons = work.finish()
    known = [field.name for field in plan.columns]
    kept = done.select(*known, *(name for name in done.columns if name not in known))
    rejected = frame[reasons[_ROW].to_list()] if reasons.height else frame.clear()
    return kept, rejected.with_columns(reasons[REASON].rename(REASON))


class _Work:
    """The frame on its way: a lazy query, and the rows that `python` steps took out."""

    def __init__(self, frame: pl.DataFrame, checks: dict[str, int]) -> None:
        self._frame = frame.lazy().with_row_index(_ROW)
        self._checks = checks
        self._tracks = False
        self._out: list[pl.DataFrame] = []

    def do(self, op: Operation) -> None:
        """Apply one operation."""
        if isinstance(op, Rename):
            self._frame = self._frame.rename(dict(op.names))
        elif isinstance(op, Python):
            self._python(op)
        elif isinstance(op, Check):
            self._check(op)
        else:
            self._lowered(op)

    def finish(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows kept, and the numbers and reasons of those rejected, in order."""
        done = self._collect()
        schema = {_ROW: pl.UInt32, REASON: pl.String}
        reasons = pl.concat(self._out).sort(_ROW) if self._out else pl.DataFrame(schema=schema)
        return done.drop(_ROW, REASON, strict=False), reasons

    def _lowered(self, op: Assign | Filter) -> None:
        rejected = rejects(op.expression)
        if rejected is not None:
            self._track()
            why = pl.coalesce(pl.col(REASON), pl.when(rejected).then(pl.lit(op.reason)))
            self._frame = self._frame.with_columns(why.alias(REASON))
        value = to_polars(op.expression)
        if isinstance(op, Assign):
            self._frame = self._frame.with_columns(value.alias(op.name))
        else:
            self._frame = self._frame.filter(value | pl.col(REASON).is_not_null() if self._tracks else value)

    def _python(self, op: Python) -> None:
        self._track()
        done = self._collect()
        outputs, reasons = functions.apply(op, done.select(field.name for field in op.inputs))
        done = done.with_columns(*outputs.get_columns(), pl.Series(REASON, reasons, dtype=pl.String))
        self._frame = done.lazy()

    def _check(self, op: Check) -> None:
        """Count the rows so far that are wrong and, but for a warning, note why they go."""
        if op.severity != "warn":
            self._track()
        done = self._collect()
        failed = ~to_polars(op.expression).fill_null(True)
        rejected = rejects(op.expression)
        if rejected is not None:
            failed = failed | rejected
        done = done.with_columns(failed.alias(_FAILED))
        number = int(done[_FAILED].sum())
        self._checks[op.name] = self._checks.get(op.name, 0) + number
        if number and op.severity != "warn":
            why = pl.when(pl.col(_FAILED)).then(pl.lit(op.reason))
            done = done.with_columns(why.alias(REASON))
        self._frame = done.drop(_FAILED).lazy()

    def _track(self) -> None:
        """Give the rows a reason, from the first operation that may reject one."""
        if not self._tracks:
            self._tracks = True
            none = pl.lit(None, dtype=pl.String)
            self._frame = self._frame.with_columns(none.alias(REASON))

    def _collect(self) -> pl.DataFrame:
        """Return the rows so far that are not rejected; note the others."""
        done = self._frame.collect()
        if self._tracks:
            self._out.append(done.filter(pl.col(REASON).is_not_null()).select(_ROW, REASON))
            done = done.filter(pl.col(REASON).is_null())
        return done
