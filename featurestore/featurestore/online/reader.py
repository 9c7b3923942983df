"""Feature vectors from the online store, equal to the training row of the same instant.

A vector is compiled once: keys, fields, places and closures are resolved when the reader is built. A
request then costs one round trip for all its rows and feature sets, and one more for each level of look-ups
whose keys are features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurestore import instants
from featurestore.contracts import EntityRead, OnlineStore
from featurestore.errors import HistoryError, RequestError, did_you_mean
from featurestore.expressions import RowRejected
from featurestore.expressions.to_closure import to_closure
from featurestore.instants import MINUTE, format_instant
from featurestore.online.base import BaseRows
from featurestore.online.lookups import (
    LookupReader,
    Rows,
    levels_of,
    slots_of,
)
from featurestore.online.requests import cast_row, outward
from featurestore.online.statuses import INVALID, NOT_FOUND
from featurestore.online.writer import MARK, lost, mark_of
from featurestore.plans import SetPlan, VectorPlan
from featurestore.types import Field

AHEAD = 5 * MINUTE
"""How far after the present an instant may be asked for."""


@dataclass
class VectorResult:
    """Values and statuses, rows in the order asked for, columns in the order declared.

    `rows` hold row values: instants in microseconds, dates in days. `as_of` is each row's instant, `now`
    the request's; `errors` says why a row is INVALID. `overflows` counts sums and differences that are null
    because their types cannot hold them.
    """

    vector: str
    columns: tuple[Field, ...]
    rows: list[list[Any]]
    status: list[list[str]]
    as_of: list[int]
    now: int
    errors: list[str | None]
    overflows: int = 0

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dictionary per row, with datetimes and dates."""
        return [
            {f.name: outward(value, f.type) for f, value in zip(self.columns, row, strict=True)}
            for row in self.rows
        ]

    def to_arrow(self) -> Any:
        """Return an Arrow table with the features' declared types."""
        import pyarrow as pa

        columns = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        return pa.table(
            {
                f.name: pa.array([outward(v, f.type) for v in values], f.type.arrow())
                for f, values in zip(self.columns, columns, strict=True)
            }
        )


class VectorReader:
    """Reads one feature vector. `generations` names the generation that serves a feature set now.

    `unbounded` readers answer at any instant: for generations that keep rows of all time. `marked` readers
    also read that a generation is filled, so that a store that lost it is an error, never an empty window.
    """

    def __init__(
        self,
        plan: VectorPlan,
        store: OnlineStore,
        generations: Callable[[SetPlan], str],
        *,
        clock: Callable[[], int] = instants.now,
        unbounded: bool = False,
        marked: bool = False,
    ) -> None:
        self.plan = plan
        self._name = f"{plan.name}@{plan.fingerprint}"
        self._store = store
        self._generations = generations
        self._clock = clock
        self._marked = marked
        slots = slots_of(plan)
        self._levels = levels_of(plan, slots)
        self._base = BaseRows(plan.base) if plan.base is not None else None
        self._derived = [
            (slots[d.name], to_closure(d.expression), [(column, slots[name]) for column, name in d.columns])
            for d in plan.derived
        ]
        self._impute = [(slots[name], constant) for name, constant in plan.impute if name in slots]
        self._inputs = [(f.name, slots[f.name]) for f in plan.inputs]
        self._width = len(plan.outputs)
        self._values = [None] * len(slots)
        self._status = [NOT_FOUND] * len(slots)
        self._is_whole = len(slots) == self._width
        self._is_one = self._base is None and len(plan.lookups) == 1 and self._levels[0][0].fills_all
        histories = [lookup.set.history for lookup in plan.lookups if lookup.set.history is not None]
        self._history = None if unbounded else min(histories, default=None)
        self._request_keys = plan.request_keys
        self._usual = set(plan.request_keys) | {f.name for f in plan.inputs}
        self._ordered = tuple(plan.request_keys)
        self._known = set(self._usual)
        if plan.base is not None:
            self._known |= {f.name for f in plan.base.source.schema}

    def read(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        as_of: int | Sequence[int] | None = None,
        now: int | None = None,
    ) -> VectorResult:
        """Return the vectors of `rows` as of now, one instant, or one instant per row (microseconds).

        Raises RequestError on a malformed request, HistoryError on an instant outside the history,
        StoreUnavailable. A row that is bad in itself comes back INVALID, and fails alone.
        """
        now = self._clock() if now is None else now
        prepared = self._prepare(rows, as_of, now)
        overflows = 0
        for level in self._levels:
            reads = [lookup.requests(prepared) for lookup in level]
            found = self._kept(level, self._store.read_many(self._requests(level, reads)))
            for lookup, column, fields in zip(level, reads, found, strict=True):
                overflows += lookup.fill(prepared, column, fields)
        return self._result(prepared, now, overflows)

    async def read_async(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        as_of: int | Sequence[int] | None = None,
        now: int | None = None,
    ) -> VectorResult:
        """Return what `read` returns, without blocking the event loop."""
        now = self._clock() if now is None else now
        prepared = self._prepare(rows, as_of, now)
        overflows = 0
        for level in self._levels:
            reads = [lookup.requests(prepared) for lookup in level]
            found = self._kept(level, await self._store.read_many_async(self._requests(level, reads)))
            for lookup, column, fields in zip(level, reads, found, strict=True):
                overflows += lookup.fill(prepared, column, fields)
        return self._result(prepared, now, overflows)

    def _prepare(
        self, rows: Sequence[Mapping[str, Any]], as_of: int | Sequence[int] | None, now: int
    ) -> Rows:
        if isinstance(rows, Mapping | str | bytes):
            raise RequestError("rows is a list of rows.", hint="Write [row] for one.")
        if as_of is not None and self._base is not None:
            raise RequestError(
                f"as_of does not apply to '{self.plan.name}': each row is evaluated at its own event time.",
                hint="Leave as_of out.",
            )
        size = len(rows)
        if isinstance(as_of, Sequence):
            if len(as_of) != size:
                raise RequestError(f"as_of has {len(as_of)} instants for {size} rows.")
            times = list(as_of)
        else:
            if as_of is not None and (reason := self._outside(as_of, now)):
                raise HistoryError(reason)
            times = [now if as_of is None else as_of] * size
        if self._is_one:  # whose values and statuses take the place of these
            values, status = [self._values[:]] * size, [self._status[:]] * size
        else:
            values, status = [self._values[:] for _ in rows], [self._status[:] for _ in rows]
        prepared = Rows(times, list(rows), values, status, [None] * size, [None] * size)
        if self._base is None and not self._inputs and not isinstance(as_of, Sequence):
            usual, ordered = self._usual, self._ordered
            odd = [
                i
                for i, row in enumerate(rows)
                if type(row) is not dict or (tuple(row) != ordered and row.keys() != usual)
            ]
        else:
            odd = list(range(size))
        for i in odd:  # nothing can be wrong with the others but their keys
            try:
                self._prepare_one(prepared, i, now)
            except (RequestError, RowRejected, ValueError) as error:
                prepared.errors[i] = str(error)
        return prepared

    def _prepare_one(self, rows: Rows, i: int, now: int) -> None:
        row = rows.keys[i]
        self._check(row)
        if self._base is not None:
            base = rows.bases[i] = self._base.build(row)
            rows.times[i] = base.t
            rows.keys[i] = {**row, **base.keys}
        rows.errors[i] = self._outside(rows.times[i], now)
        cast = cast_row(row, self.plan.inputs)
        for name, slot in self._inputs:
            rows.put(i, slot, cast[name])

    def _check(self, row: Mapping[str, Any]) -> None:
        if not isinstance(row, Mapping):
            raise RequestError(f"A row is a mapping of columns to values, not {type(row).__name__}.")
        unknown = [name for name in row if name not in self._known]
        if unknown:
            raise RequestError(
                f"'{unknown[0]}' is no key or input of '{self.plan.name}'.",
                hint=did_you_mean(unknown[0], self._known),
            )
        if self._base is None:
            missing = [name for name in self._request_keys if name not in row]
            if missing:
                raise RequestError(f"The row lacks {', '.join(missing)}.")

    def _outside(self, t: int, now: int) -> str | None:
        if t > now + AHEAD:
            return f"{format_instant(t)} has not come yet; it is {format_instant(now)}."
        if self._history is not None and t < now - self._history:
            return (
                f"{format_instant(t)} lies outside the history of '{self.plan.name}',"
                f" which begins at {format_instant(now - self._history)}."
                " Declare a longer history: on its feature sets."
            )
        return None

    def _requests(
        self, level: Sequence[LookupReader], reads: Sequence[Sequence[EntityRead | None]]
    ) -> list[tuple[str, list[EntityRead]]]:
        requests = [
            (self._generations(lookup.plan), [read for read in column if read is not None])
            for lookup, column in zip(level, reads, strict=True)
        ]
        if self._marked:
            requests += [(mark_of(generation), [MARK]) for generation, _ in requests]
        return requests

    def _kept(
        self, level: Sequence[LookupReader], found: list[list[list[bytes | None]]]
    ) -> list[list[list[bytes | None]]]:
        """Return what was found, by look-up. Raises StoreUnavailable where one is lost."""
        for lookup, mark in zip(level, found[len(level) :], strict=False):
            if mark[0][0] is None:
                raise lost(lookup.plan)
        return found[: len(level)]

    def _result(self, rows: Rows, now: int, overflows: int) -> VectorResult:
        if self._derived:
            for i, error in enumerate(rows.errors):
                if error is None:
                    self._derive(rows, i)
        for slot, constant in self._impute:
            for row in rows.values:
                if row[slot] is None:
                    row[slot] = constant
        values, status = rows.values, rows.status
        if not self._is_whole:
            values = [row[: self._width] for row in values]
            status = [row[: self._width] for row in status]
        if rows.errors.count(None) < len(rows.errors):
            blank = [INVALID] * self._width
            for i, error in enumerate(rows.errors):
                if error is not None:
                    values[i], status[i] = [None] * self._width, blank
        return VectorResult(
            self._name,
            self.plan.outputs,
            values,
            status,
            rows.times,
            now,
            rows.errors,
            overflows,
        )

    def _derive(self, rows: Rows, i: int) -> None:
        values = rows.values[i]
        for slot, closure, columns in self._derived:
            try:
                rows.put(i, slot, closure({column: values[place] for column, place in columns}))
            except RowRejected:
                values[slot] = None
                rows.status[i][slot] = INVALID
