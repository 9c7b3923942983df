"""Feature vectors from the online store, equal to the training row of the same instant.

A vector is compiled once: keys, fields, places and closures are resolved when the reader is built. A
request then costs one round trip for all its rows and feature sets, and one more for each level of look-ups
whose keys are features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec

from featurestore import instants
from featurestore.aggregates import plain_values
from featurestore.contracts import EntityRead, OnlineStore
from featurestore.errors import HistoryError, RequestError, did_you_mean
from featurestore.expressions import RowRejected
from featurestore.expressions.to_closure import to_closure
from featurestore.instants import MINUTE, format_instant
from featurestore.keys import key_encoder, shard_of
from featurestore.online.base import BaseRow, BaseRows
from featurestore.online.few import FewRows
from featurestore.online.layout import OnlineLayout
from featurestore.online.requests import cast_row, outward, row_value
from featurestore.online.view import EntityView, aggregates, newest_at_once
from featurestore.online.writer import MARK, lost, mark_of
from featurestore.plans import Lookup, SetPlan, VectorPlan
from featurestore.rows.vectors import unpack
from featurestore.types import DataType, Field

PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_TTL, INVALID = (
    "PRESENT",
    "NULL_VALUE",
    "NOT_FOUND",
    "OUTSIDE_TTL",
    "INVALID",
)
_unpack = msgspec.msgpack.Decoder().decode

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


@dataclass(slots=True)
class _Row:
    """A request's row on its way: its instant, key values by request column, and its slots.

    The first slots are the vector's outputs, in order; inputs and what is hidden follow.
    """

    t: int
    keys: Mapping[str, Any]
    values: list[Any]
    status: list[str]
    base: BaseRow | None = None
    error: str | None = None

    def put(self, slot: int, value: Any) -> None:
        """Set a slot to a value that was found, null or not."""
        self.values[slot] = value
        self.status[slot] = NULL_VALUE if value is None else PRESENT


class _LookupReader:
    """One look-up, compiled: which fields to read, and where values go."""

    def __init__(self, lookup: Lookup, slots: Mapping[str, int]) -> None:
        self.plan = lookup.set
        self.layout = OnlineLayout.of(lookup.set)
        self.is_base = lookup.is_base
        self.keys = lookup.keys
        self._encoders = [key_encoder(key.type) for key in lookup.set.keys]
        self._fields: tuple[int | None, tuple[bytes, ...]] = (None, ())
        self._plain = _PlainSlots(lookup, slots)
        aggregated = {o.name: i for i, o in enumerate(self.layout.aggregates.outputs)}
        self._aggregated = [
            (aggregated[s.feature], slots[s.output], s.type)
            for s in lookup.features
            if s.feature in aggregated
        ]
        self._few = None
        if self._aggregated and not self.is_base:
            self._few = FewRows.of(self.layout, [place for place, _, _ in self._aggregated])
        outputs = self.layout.aggregates.outputs
        self._overflows = [
            (place, overflows)
            for place, _, _ in self._aggregated
            if (overflows := outputs[place].overflows) is not None
        ]

    def requests(self, rows: Sequence[_Row]) -> list[EntityRead | None]:
        """Return what to read for each row: None where a key is null, or bad, which is the row's error."""
        reads: list[EntityRead | None] = []
        for row in rows:
            try:
                reads.append(None if row.error is not None else self._request(row))
            except ValueError as error:
                row.error = str(error)
                reads.append(None)
        return reads

    def _request(self, row: _Row) -> EntityRead | None:
        key = b""
        for column, encode in zip(self.keys, self._encoders, strict=True):
            value = row.keys.get(column)
            if value is None or value != value:
                return None
            try:
                key += encode(value)
            except ValueError as error:
                raise ValueError(f"{column}: {error}") from None
        return self._read(row, key)

    def _read(self, row: _Row, key: bytes) -> EntityRead:
        at, fields = self._fields
        if at != row.t:  # all rows of most requests share one instant
            fields = self.layout.read_fields(row.t, self.is_base)
            self._fields = (row.t, fields)
        return EntityRead(shard_of(key), key, fields)

    def fill(
        self,
        rows: Sequence[_Row],
        reads: Sequence[EntityRead | None],
        fields: Sequence[Sequence[bytes | None]],
    ) -> int:
        """Set the rows' values and statuses from what was read (in the order of the reads that are there).

        Return how many values are null because their types cannot hold them.
        """
        answers = iter(fields)
        views, viewed = [], []
        is_simple = not self._aggregated and not self.is_base
        for row, read in zip(rows, reads, strict=True):
            found: Sequence[bytes | None] = () if read is None else next(answers)
            if row.error is not None:
                continue
            if is_simple and read is not None:
                newest = newest_at_once(self.layout, found[0], row.t)
                if newest is not None:
                    self._plain.fill(row, newest)
                    continue
            if self._few is not None and read is not None and self._fill_few(row, found[0]):
                continue
            stored = {} if read is None else dict(zip(read.fields, found, strict=True))
            base = row.base.leaf if self.is_base and row.base is not None and read is not None else None
            try:
                views.append(EntityView(self.layout, stored, row.t, base))
                viewed.append(row)
            except HistoryError as error:
                row.error = str(error)
        for row, view in zip(viewed, views, strict=True):
            if self.is_base and row.base is not None:
                self._plain.fill_base(row, row.base)
            elif self._plain:
                self._plain.fill(row, view.newest())
        if not self._aggregated or not views:
            return 0
        finished = aggregates(self.layout, views)
        for place, slot, kind in self._aggregated:
            for row, value in zip(viewed, plain_values(*finished[place], kind), strict=True):
                row.put(slot, value)
        return sum(int(overflows(finished[place]).sum()) for place, overflows in self._overflows)

    def _fill_few(self, row: _Row, root: bytes | None) -> bool:
        """Set a row's values if its state is one leaf of usual values; tell whether it is."""
        few = None if root is None or self._few is None else self._few.read(root, row.t)
        if few is None or (self._plain and few[1] is None):
            return False
        if self._plain:
            self._plain.fill(row, few[1])
        for (_, slot, _), value in zip(self._aggregated, few[0], strict=True):
            row.put(slot, value)
        return True


class _PlainSlots:
    """Where the row-level features of a look-up go: from their places in a packed row to a row's slots."""

    def __init__(self, lookup: Lookup, slots: Mapping[str, int]) -> None:
        places = {f.name: place for place, f in enumerate(lookup.set.plain)}
        own = sorted((slots[s.output], places[s.feature], s) for s in lookup.features if s.feature in places)
        self._ttl = lookup.set.ttl
        self._slots = [slot for slot, _, _ in own]
        self._base = [(slot, s.feature) for slot, _, s in own]
        self._restores = [
            (number, restore)
            for number, (_, _, s) in enumerate(own)
            if (restore := _restore(s.type)) is not None
        ]
        self._pick = _picker([place for _, place, _ in own], len(places))
        # Most vectors have a look-up's features side by side: one slice takes them all.
        self._start = self._slots[0] if self._slots else 0
        self._end = self._start + len(own)
        self._is_slice = self._slots == list(range(self._start, self._end))
        self._present = [PRESENT] * len(own)

    def __len__(self) -> int:
        return len(self._slots)

    def fill(self, row: _Row, newest: tuple[int, bytes] | None) -> None:
        """Set the slots from the newest row: its event time and its packed features."""
        if newest is None:
            self._miss(row, NOT_FOUND)
        elif self._ttl is not None and newest[0] <= row.t - self._ttl:
            self._miss(row, OUTSIDE_TTL)
        else:
            values = self._pick(_unpack(newest[1]))
            for number, restore in self._restores:
                if values[number] is not None:
                    values[number] = restore(values[number])
            self._set(row, values)

    def fill_base(self, row: _Row, base: BaseRow) -> None:
        """Set the slots from the request's base row."""
        for slot, feature in self._base:
            row.put(slot, base.values[feature])

    def _set(self, row: _Row, values: list[Any]) -> None:
        if self._is_slice:
            row.values[self._start : self._end] = values
            status = self._present
            if None in values:
                status = [NULL_VALUE if value is None else PRESENT for value in values]
            row.status[self._start : self._end] = status
        else:
            for slot, value in zip(self._slots, values, strict=True):
                row.put(slot, value)

    def _miss(self, row: _Row, status: str) -> None:
        for slot in self._slots:
            row.values[slot] = None
            row.status[slot] = status


def _picker(places: list[int], size: int) -> Callable[[list[Any]], list[Any]]:
    """Return what takes the items at `places` of a list of `size`."""
    if places == list(range(size)):
        return lambda stored: stored
    if len(places) < 2:
        return lambda stored: [stored[place] for place in places]
    pick = itemgetter(*places)
    return lambda stored: list(pick(stored))


class _ChainedReader(_LookupReader):
    """A look-up some of whose keys are features; a value that is no key of the entity is of no entity."""

    def __init__(self, lookup: Lookup, slots: Mapping[str, int]) -> None:
        super().__init__(lookup, slots)
        self._found = [
            slots[key] if place in lookup.feature_keys else None for place, key in enumerate(lookup.keys)
        ]

    def _request(self, row: _Row) -> EntityRead | None:
        parts = b""
        for column, encode, slot in zip(self.keys, self._encoders, self._found, strict=True):
            value = row.keys.get(column) if slot is None else row.values[slot]
            if value is None or value != value:
                return None
            try:
                parts += encode(value)
            except ValueError as error:
                if slot is not None:
                    return None
                raise ValueError(f"{column}: {error}") from None
        return self._read(row, parts)


def _restore(kind: DataType) -> Callable[[Any], Any] | None:
    """Return what turns a packed value into a row value; None where it is one."""
    if kind.name == "vector":
        return lambda data: unpack(data, kind)
    return (lambda text: row_value(text, kind)) if kind.holds_decimals else None


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
        self._store = store
        self._generations = generations
        self._clock = clock
        self._marked = marked
        slots = _slots(plan)
        self._levels = _levels(plan.lookups, slots)
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
        histories = [lookup.set.history for lookup in plan.lookups if lookup.set.history is not None]
        self._history = None if unbounded else min(histories, default=None)
        self._request_keys = plan.request_keys
        self._usual = set(plan.request_keys) | {f.name for f in plan.inputs}
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
    ) -> list[_Row]:
        if isinstance(rows, Mapping | str | bytes):
            raise RequestError("rows is a list of rows.", hint="Write [row] for one.")
        if as_of is not None and self._base is not None:
            raise RequestError(
                f"as_of does not apply to '{self.plan.name}': each row is evaluated at its own event time.",
                hint="Leave as_of out.",
            )
        if isinstance(as_of, Sequence):
            if len(as_of) != len(rows):
                raise RequestError(f"as_of has {len(as_of)} instants for {len(rows)} rows.")
            times = list(as_of)
        else:
            if as_of is not None and (reason := self._outside(as_of, now)):
                raise HistoryError(reason)
            times = [now if as_of is None else as_of] * len(rows)
        is_plain = self._base is None and not self._inputs
        is_within = as_of is None or not isinstance(as_of, Sequence)  # seen above
        prepared = []
        for row, t in zip(rows, times, strict=True):
            ready = _Row(t, row, self._values[:], self._status[:])
            prepared.append(ready)
            if is_plain and is_within and type(row) is dict and row.keys() == self._usual:
                continue  # nothing can be wrong with it but its keys
            try:
                self._check(row)
                if self._base is not None:
                    ready.base = self._base.build(row)
                    ready.t = ready.base.t
                    ready.keys = {**row, **ready.base.keys}
                ready.error = self._outside(ready.t, now)
                cast = cast_row(row, self.plan.inputs)
                for name, slot in self._inputs:
                    ready.put(slot, cast[name])
            except (RequestError, RowRejected, ValueError) as error:
                ready.error = str(error)
        return prepared

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
        self, level: Sequence[_LookupReader], reads: Sequence[Sequence[EntityRead | None]]
    ) -> list[tuple[str, list[EntityRead]]]:
        requests = [
            (self._generations(lookup.plan), [read for read in column if read is not None])
            for lookup, column in zip(level, reads, strict=True)
        ]
        if self._marked:
            requests += [(mark_of(generation), [MARK]) for generation, _ in requests]
        return requests

    def _kept(
        self, level: Sequence[_LookupReader], found: list[list[list[bytes | None]]]
    ) -> list[list[list[bytes | None]]]:
        """Return what was found, by look-up. Raises StoreUnavailable where one is lost."""
        for lookup, mark in zip(level, found[len(level) :], strict=False):
            if mark[0][0] is None:
                raise lost(lookup.plan)
        return found[: len(level)]

    def _result(self, rows: Sequence[_Row], now: int, overflows: int) -> VectorResult:
        if self._derived:
            for row in rows:
                if row.error is None:
                    self._derive(row)
        blank = [INVALID] * self._width
        return VectorResult(
            f"{self.plan.name}@{self.plan.fingerprint}",
            self.plan.outputs,
            [self._outputs(row) for row in rows],
            [blank if row.error is not None else row.status[: self._width] for row in rows],
            [row.t for row in rows],
            now,
            [row.error for row in rows],
            overflows,
        )

    def _derive(self, row: _Row) -> None:
        for slot, closure, columns in self._derived:
            try:
                row.put(slot, closure({column: row.values[place] for column, place in columns}))
            except RowRejected:
                row.values[slot] = None
                row.status[slot] = INVALID

    def _outputs(self, row: _Row) -> list[Any]:
        if row.error is not None:
            return [None] * self._width
        for slot, constant in self._impute:
            if row.values[slot] is None:
                row.values[slot] = constant
        return row.values[: self._width]


def _slots(plan: VectorPlan) -> dict[str, int]:
    """Return the number of each value that a row has on its way: outputs first, then all else."""
    names = dict.fromkeys(f.name for f in plan.outputs)
    names |= dict.fromkeys(f.name for f in plan.inputs)
    names |= dict.fromkeys(s.output for lookup in plan.lookups for s in lookup.features)
    names |= dict.fromkeys(d.name for d in plan.derived)
    return {name: number for number, name in enumerate(names)}


def _levels(lookups: Sequence[Lookup], slots: Mapping[str, int]) -> list[list[_LookupReader]]:
    """Return the look-ups' readers by level: those of one level are read in one round trip."""
    levels: list[list[_LookupReader]] = [
        [] for _ in range(1 + max((item.level for item in lookups), default=0))
    ]
    for lookup in lookups:
        reader = _ChainedReader if lookup.feature_keys else _LookupReader
        levels[lookup.level].append(reader(lookup, slots))
    return levels
