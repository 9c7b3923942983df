"""Look-ups of a vector, compiled: which fields to read for a request's rows, and where values go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np

from featurestore.aggregates import plain_array
from featurestore.aggregates.arrays import Array
from featurestore.aggregates.layout import AllFinished
from featurestore.contracts import EntityRead
from featurestore.errors import HistoryError
from featurestore.keys import key_encoder, shard_of
from featurestore.online.base import BaseRow
from featurestore.online.few import FewRows
from featurestore.online.layout import OnlineLayout
from featurestore.online.many import ManyRows
from featurestore.online.packed import PackedLeaf
from featurestore.online.requests import row_value
from featurestore.online.statuses import NOT_FOUND, NULL_VALUE, OUTSIDE_TTL, PRESENT
from featurestore.online.view import EntityView, NewestAtOnce, UsualLeaf, aggregates
from featurestore.plans import Lookup, VectorPlan
from featurestore.rows.vectors import unpack
from featurestore.types import DataType, Field

_unpack = msgspec.msgpack.Decoder().decode

MANY = 20
"""From how many usual leaves on they are read at once; arrays cost as much as ten of them to begin with."""

Newest = tuple[int, bytes]
"""The event time and the packed features of an entity's newest row."""


@dataclass(slots=True)
class Rows:
    """A request's rows on their way, as columns: instants, keys by request column, slots, base rows, errors.

    A row's first slots are the vector's outputs, in order; inputs and what is hidden follow.
    """

    times: list[int]
    keys: list[Mapping[str, Any]]
    values: list[list[Any]]
    status: list[list[str]]
    bases: list[BaseRow | None]
    errors: list[str | None]

    def put(self, row: int, slot: int, value: Any) -> None:
        """Set a slot to a value that was found, null or not."""
        self.values[row][slot] = value
        self.status[row][slot] = NULL_VALUE if value is None else PRESENT


class LookupReader:
    """One look-up, compiled."""

    def __init__(self, lookup: Lookup, slots: Mapping[str, int]) -> None:
        self.plan = lookup.set
        self.layout = OnlineLayout.of(lookup.set)
        self.is_base = lookup.is_base
        self._key = _joined(
            [
                _part(column, key_encoder(key.type), slots[column] if place in lookup.feature_keys else None)
                for place, (column, key) in enumerate(zip(lookup.keys, lookup.set.keys, strict=True))
            ]
        )
        self._newest = NewestAtOnce(self.layout)
        self._plain = _PlainSlots(lookup, slots)
        aggregated = {o.name: i for i, o in enumerate(self.layout.aggregates.outputs)}
        own = sorted(
            (slots[s.output], aggregated[s.feature], s) for s in lookup.features if s.feature in aggregated
        )
        self._aggregated = places = [place for _, place, _ in own]
        self._kinds = {place: s.type for _, place, s in own}
        self._outputs = self.layout.aggregates.outputs
        self._slots = _Slots([slot for slot, _, _ in own], len(slots))
        self._usual = UsualLeaf(self.layout, places, bool(self._plain))
        self._few: FewRows | None = None
        self._many: ManyRows | None = None
        if places and not self.is_base:
            self._few = FewRows.of(self.layout, places)
            self._many = ManyRows.of(self.layout)
        self._is_short = self._few is not None or self._many is not None

    @property
    def fills_all(self) -> bool:
        """Whether a row's values and statuses are replaced as a whole by what this look-up finds."""
        return self._plain.together.is_all or self._slots.is_all

    def requests(self, rows: Rows) -> list[EntityRead | None]:
        """Return what to read for each row: None where a key is null, or bad, which is the row's error."""
        reads: list[EntityRead | None] = []
        at: int | None = None
        fields: tuple[bytes, ...] = ()  # all rows of most requests share one instant
        key_of = self._key
        for row, t in enumerate(rows.times):
            key = None
            if rows.errors[row] is None:
                try:
                    key = key_of(rows.keys[row], rows.values[row])
                except ValueError as error:
                    rows.errors[row] = str(error)
            if key is None:
                reads.append(None)
                continue
            if at != t:
                at, fields = t, self.layout.read_fields(t, self.is_base)
            reads.append(EntityRead(shard_of(key), key, fields))
        return reads

    def fill(
        self,
        rows: Rows,
        reads: Sequence[EntityRead | None],
        fields: Sequence[Sequence[bytes | None]],
    ) -> int:
        """Set the rows' values and statuses from what was read (in the order of the reads that are there).

        Return how many values are null because their types cannot hold them.
        """
        answers = iter(fields)
        newest: list[tuple[int, Newest | None]] = []
        short: list[_Short] = []
        views: list[tuple[int, EntityView]] = []
        is_simple = not self._aggregated and not self.is_base
        for row, read in enumerate(reads):
            found: Sequence[bytes | None] = () if read is None else next(answers)
            if rows.errors[row] is not None:
                continue
            if is_simple and read is not None:
                last = self._newest(found[0], rows.times[row])
                if last is not None:
                    newest.append((row, last))
                    continue
            if self._is_short and read is not None:
                leaf = self._usual(found[0], rows.times[row])
                if leaf is not None:
                    short.append(_Short(row, leaf, read, found))
                    continue
            self._view(rows, row, read, found, views)
        overflows = self._fill_short(rows, short, newest, views) if short else 0
        for row, view in views:
            base = rows.bases[row]
            if self.is_base and base is not None:
                self._plain.fill_base(rows, row, base)
            elif self._plain:
                newest.append((row, view.newest()))
        self._plain.fill(rows, newest)
        if self._few is not None:
            views = [(row, view) for row, view in views if not self._fill_deep(rows, row, view)]
        if self._aggregated and views:
            finished = aggregates(self.layout, [view for _, view in views])
            overflows += self._fill_finished(rows, [row for row, _ in views], finished)
        return overflows

    def _view(
        self,
        rows: Rows,
        row: int,
        read: EntityRead | None,
        found: Sequence[bytes | None],
        views: list[tuple[int, EntityView]],
    ) -> None:
        """Add a row's view, by which the general path sees it."""
        stored = {} if read is None else dict(zip(read.fields, found, strict=True))
        base = rows.bases[row]
        leaf = base.leaf if self.is_base and base is not None and read is not None else None
        try:
            views.append((row, EntityView(self.layout, stored, rows.times[row], leaf)))
        except HistoryError as error:
            rows.errors[row] = str(error)

    def _fill_short(
        self,
        rows: Rows,
        short: Sequence[_Short],
        newest: list[tuple[int, Newest | None]],
        views: list[tuple[int, EntityView]],
    ) -> int:
        """Set the aggregates of rows with usual leaves, at once or one by one; return the overflows."""
        if self._many is not None and (self._few is None or len(short) >= MANY):
            finished = self._many.read([one.leaf for one in short], [rows.times[one.row] for one in short])
            overflows = self._fill_finished(rows, [one.row for one in short], finished)
        else:
            assert self._few is not None
            overflows, taken = 0, []
            for one in short:
                values = self._few.read(one.leaf, rows.times[one.row])
                if values is None:
                    self._view(rows, one.row, one.read, one.found, views)
                    continue
                self._slots.put(rows, one.row, values)
                taken.append(one)
            short = taken
        if self._plain:
            for row, leaf, _, _ in short:
                assert leaf.newest is not None
                newest.append((row, (leaf.last, leaf.newest)))
        return overflows

    def _fill_deep(self, rows: Rows, row: int, view: EntityView) -> bool:
        """Set the aggregates of a row by Python's own sums; False where the general path must."""
        assert self._few is not None
        values = self._few.read(view, view.t) if view.is_deep else None
        if values is None:
            return False
        self._slots.put(rows, row, values)
        return True

    def _fill_finished(self, rows: Rows, numbers: Sequence[int], finished: AllFinished) -> int:
        """Set the aggregates of rows (by number); return how many of them overflowed."""
        shape = len(self._outputs), len(numbers)
        values, is_there = np.empty(shape, object), np.zeros(shape, bool)
        count = 0
        for places, told in finished:
            wanted = [place for place in places if place in self._kinds]
            if not wanted:
                continue
            alike = len(places), len(numbers)
            values[places] = plain_array(*told, self._kinds[wanted[0]]).reshape(alike)
            is_there[places] = told[1].reshape(alike)
            overflows = self._outputs[wanted[0]].overflows
            if overflows is not None and (over := overflows(told)).any():
                each = dict(zip(places, over.reshape(alike).sum(axis=1).tolist(), strict=True))
                count += sum(self._aggregated.count(place) * each[place] for place in wanted)
        items = values[self._aggregated].T.tolist()
        statuses = _statuses(is_there[self._aggregated])
        for row, own, status in zip(numbers, items, statuses, strict=True):
            self._slots.put(rows, row, own, status)
        return count


def _statuses(is_there: Array) -> Iterator[list[str]]:
    """Yield each row's statuses, by what is there (of value and row); rows that are alike share theirs."""
    packed = np.packbits(is_there, axis=0)
    patterns, size = packed.T.tobytes(), len(packed)
    known: dict[bytes, list[str]] = {}
    for row in range(is_there.shape[1]):
        pattern = patterns[row * size : (row + 1) * size]
        if pattern not in known:
            known[pattern] = [PRESENT if there else NULL_VALUE for there in is_there[:, row].tolist()]
        yield known[pattern]


class _Short(NamedTuple):
    """A row whose aggregates the short ways take, and what was read, for the general path."""

    row: int
    leaf: PackedLeaf
    read: EntityRead
    found: Sequence[bytes | None]


class _Slots:
    """Slots that values go to together. Most are side by side: one slice takes them all."""

    def __init__(self, slots: list[int], size: int) -> None:
        self._slots = slots
        self._start = slots[0] if slots else 0
        self._end = self._start + len(slots)
        self._is_slice = slots == list(range(self._start, self._end))
        self.is_all = self._is_slice and len(slots) == size

    def put(self, rows: Rows, row: int, values: list[Any], status: list[str] | None = None) -> None:
        """Set a row's slots; without statuses each is told by its value."""
        if status is None:
            status = [NULL_VALUE if value is None else PRESENT for value in values]
        if self.is_all:
            rows.values[row], rows.status[row] = values, status
        elif self._is_slice:
            rows.values[row][self._start : self._end] = values
            rows.status[row][self._start : self._end] = status
        else:
            for slot, value, told in zip(self._slots, values, status, strict=True):
                rows.values[row][slot], rows.status[row][slot] = value, told


Key = Callable[[Mapping[str, Any], Sequence[Any]], bytes | None]
"""Gives a row's canonical key from its request columns and slots; None where a part is null.

Raises ValueError where the caller gave what is no key. A feature that is none is of no entity.
"""


def _part(column: str, encode: Callable[[Any], bytes], slot: int | None) -> Key:
    """Return what gives one part of a key: of a request column, or of a slot, a feature's."""

    def asked(given: Mapping[str, Any], _: Sequence[Any]) -> bytes | None:
        value = given.get(column)
        try:
            return None if value is None or value != value else encode(value)
        except (ValueError, TypeError, ArithmeticError) as error:  # of odd objects, when they are compared
            raise ValueError(f"{column}: {error}") from None

    def found(_: Mapping[str, Any], values: Sequence[Any]) -> bytes | None:
        assert slot is not None
        value = values[slot]
        if value is None or value != value:
            return None
        try:
            return encode(value)
        except ValueError:
            return None

    return asked if slot is None else found


def _joined(parts: Sequence[Key]) -> Key:
    """Return what gives a whole key; parts after one that is null are not looked at."""
    if len(parts) == 1:
        return parts[0]

    def whole(given: Mapping[str, Any], values: Sequence[Any]) -> bytes | None:
        key = b""
        for part in parts:
            data = part(given, values)
            if data is None:
                return None
            key += data
        return key

    return whole


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
        self.together = _Slots(self._slots, len(slots))
        self._present = [PRESENT] * len(own)
        self._unpack_present = _unpacker_of_present(lookup.set.plain)

    def __len__(self) -> int:
        return len(self._slots)

    def fill(self, rows: Rows, newest: Sequence[tuple[int, Newest | None]]) -> None:
        """Set the slots of rows (by number) from each one's newest row."""
        present = self._present[:]  # one list for all rows of a request that have all
        for row, found in newest:
            if found is None:
                self._miss(rows, row, NOT_FOUND)
                continue
            time, packed = found
            if self._ttl is not None and time <= rows.times[row] - self._ttl:
                self._miss(rows, row, OUTSIDE_TTL)
                continue
            status: list[str] | None = present
            try:
                values = self._pick(self._unpack_present(packed))
            except msgspec.ValidationError:
                values, status = self._pick(_unpack(packed)), None
            for number, restore in self._restores:
                if values[number] is not None:
                    values[number] = restore(values[number])
            self.together.put(rows, row, values, status)

    def fill_base(self, rows: Rows, row: int, base: BaseRow) -> None:
        """Set the slots from the request's base row."""
        for slot, feature in self._base:
            rows.put(row, slot, base.values[feature])

    def _miss(self, rows: Rows, row: int, status: str) -> None:
        self.together.put(rows, row, [None] * len(self), [status] * len(self))


def _unpacker_of_present(fields: Sequence[Field]) -> Callable[[bytes], list[Any]]:
    """Return what unpacks a row of values none of which is null, and raises ValidationError where one is.

    To ask a list of numbers whether None is in it costs two thirds of unpacking it: each is compared. A type
    that has no None costs nothing. No type of msgspec's takes both text and bytes.
    """
    if not any(f.type.name in ("binary", "vector") for f in fields):
        return msgspec.msgpack.Decoder(list[bool | int | float | str | list[Any]]).decode

    def unpack_present(packed: bytes) -> list[Any]:
        values: list[Any] = _unpack(packed)
        if None in values:
            raise msgspec.ValidationError("a value is null")
        return values

    return unpack_present


def _picker(places: list[int], size: int) -> Callable[[list[Any]], list[Any]]:
    """Return what takes the items at `places` of a list of `size`."""
    if places == list(range(size)):
        return lambda stored: stored
    if len(places) < 2:
        return lambda stored: [stored[place] for place in places]
    pick = itemgetter(*places)
    return lambda stored: list(pick(stored))


def _restore(kind: DataType) -> Callable[[Any], Any] | None:
    """Return what turns a packed value into a row value; None where it is one."""
    if kind.name == "vector":
        return lambda data: unpack(data, kind)
    return (lambda text: row_value(text, kind)) if kind.holds_decimals else None


def slots_of(plan: VectorPlan) -> dict[str, int]:
    """Return the number of each value that a row has on its way: outputs first, then all else."""
    names = dict.fromkeys(f.name for f in plan.outputs)
    names |= dict.fromkeys(f.name for f in plan.inputs)
    names |= dict.fromkeys(s.output for lookup in plan.lookups for s in lookup.features)
    names |= dict.fromkeys(d.name for d in plan.derived)
    return {name: number for number, name in enumerate(names)}


def levels_of(plan: VectorPlan, slots: Mapping[str, int]) -> list[list[LookupReader]]:
    """Return the look-ups' readers by level: those of one level are read in one round trip."""
    levels: list[list[LookupReader]] = [
        [] for _ in range(1 + max((item.level for item in plan.lookups), default=0))
    ]
    for lookup in plan.lookups:
        levels[lookup.level].append(LookupReader(lookup, slots))
    return levels
