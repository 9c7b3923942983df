"""A `StepPlan` over Polars frames."""

from __future__ import annotations

import functools

import polars as pl

from featurestore.expressions.to_polars import rejects, to_polars
from featurestore.expressions.vectors import column
from featurestore.plans import EVENT_ID, ROW_HASH
from featurestore.rows import hashing
from featurestore.steps import functions
from featurestore.steps.plan import Assign, Check, Explode, Filter, Join, Operation, Python, Rename, StepPlan

REASON = "__reason"
_ROW = "__row"
_FAILED = "__failed"
_NUMBER = "__number"
_REASONS = {_ROW: pl.UInt32, REASON: pl.String}
_ITEM = "__item"  # which item of which: text that sorts in the order of the items


def run(
    plan: StepPlan, frame: pl.DataFrame, checks: dict[str, int] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows kept and the rows rejected.

    Kept rows have `plan.columns`, then the frame's columns that no step knows, untouched. Rejected rows
    are those of `frame`, with why in `__reason` ("code: text"). What a filter leaves out is in neither.
    Of an exploded row all items are kept, or none; each has an own `__row_hash` and `__event_id`.
    `checks`, where given, has added to it, by the name of each check, how many rows that found wrong.
    """
    if plan.ops:
        work = _Work(frame, {} if checks is None else checks)
        for op in plan.ops:
            work.do(op)
        done, reasons = work.finish()
    else:
        done, reasons = frame, pl.DataFrame(schema=_REASONS)
    known = [field.name for field in plan.columns]
    kept = done[[*known, *(name for name in done.columns if name not in known)]]
    rejected = frame[reasons[_ROW].to_list()] if reasons.height else frame.clear()
    return kept, rejected.hstack([reasons[REASON]])


class _Work:
    """The frame on its way: a lazy query, and the rows that `python` steps took out."""

    def __init__(self, frame: pl.DataFrame, checks: dict[str, int]) -> None:
        self._frame = frame.lazy().with_row_index(_ROW)
        self._checks = checks
        self._tracks = False
        self._out: list[pl.DataFrame] = []
        self._explodes = False

    def do(self, op: Operation) -> None:
        """Apply one operation."""
        if isinstance(op, Rename):
            self._frame = self._frame.rename(dict(op.names))
        elif isinstance(op, Python):
            self._python(op)
        elif isinstance(op, Explode):
            self._explode(op)
        elif isinstance(op, Join):
            self._join(op)
        elif isinstance(op, Check):
            self._check(op)
        else:
            self._lowered(op)

    def finish(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows kept, and the numbers and reasons of those rejected, in order."""
        done = self._collect()
        if not self._out:
            reasons = pl.DataFrame(schema=_REASONS)
        elif self._explodes:
            ordered = pl.concat(self._out, how="diagonal").sort(_ROW, _ITEM, nulls_last=False)
            reasons = ordered.unique(_ROW, keep="first", maintain_order=True).select(_ROW, REASON)
            done = done.filter(~pl.col(_ROW).is_in(reasons[_ROW].implode()))
        else:
            reasons = pl.concat(self._out).sort(_ROW)
        return done[[name for name in done.columns if name not in (_ROW, REASON, _ITEM)]], reasons

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

    def _explode(self, op: Explode) -> None:
        done = self._collect()
        if not self._explodes:
            self._explodes = True
            done = done.with_columns(pl.lit("").alias(_ITEM))
        holding = done.filter(pl.col(op.column).list.len() > 0)
        numbers = pl.int_ranges(0, pl.col(op.column).list.len(), dtype=pl.Int64)
        exploded = holding.with_columns(pl.col(op.column).alias(op.into), numbers.alias(_NUMBER))
        exploded = exploded.explode(op.into, _NUMBER)
        number = pl.col(_NUMBER)
        made = [(pl.col(_ITEM) + number.cast(pl.String).str.zfill(10)).alias(_ITEM)]
        if op.index is not None:
            made.append(number.alias(op.index))
        hashes = [
            hashing.of_items(exploded[name], exploded[_NUMBER])
            for name in (ROW_HASH, EVENT_ID)
            if name in exploded.columns
        ]
        self._frame = exploded.with_columns(*made, *hashes).drop(_NUMBER).lazy()

    def _join(self, op: Join) -> None:
        keys = [f"__on_{place}" for place in range(len(op.on))]
        self._frame = self._frame.join(
            _table(op).lazy(),
            left_on=[field.name for field in op.on],
            right_on=keys,
            how="left",
            maintain_order="left",
        )

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
            item = [_ITEM] if self._explodes else []
            self._out.append(done.filter(pl.col(REASON).is_not_null()).select(_ROW, *item, REASON))
            done = done.filter(pl.col(REASON).is_null())
        return done


@functools.lru_cache(maxsize=64)
def _table(op: Join) -> pl.DataFrame:
    """Return a static table as a frame: the columns to find a row by, then those that it gives."""
    keys, values = list(op.table.rows), list(op.table.rows.values())
    by = [
        column([key[place] for key in keys], field.type).alias(f"__on_{place}")
        for place, field in enumerate(op.on)
    ]
    given = [
        column([row[place] for row in values], field.type).alias(field.name)
        for place, field in enumerate(op.outputs)
    ]
    return pl.DataFrame([*by, *given])
