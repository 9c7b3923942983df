"""Look-ups in a feature set's offline table: values as of instants, and rows by event id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from featurestore import plans, tables
from featurestore.aggregates.arrays import Array
from featurestore.aggregates.functions import plain_values
from featurestore.aggregates.inputs import PartsPlan
from featurestore.aggregates.layout import Layout
from featurestore.contracts import OfflineTable
from featurestore.errors import OperatorError
from featurestore.instants import LAST
from featurestore.kernel import Answer, EntityRows, Rules, evaluate
from featurestore.kernel.places import order_by_time
from featurestore.keys import SHARDS
from featurestore.online.frames import ROW_ORDER, entity_rows, order_columns
from featurestore.plans import SetPlan
from featurestore.rows.values import row_values_series
from featurestore.types import DataType, Field

QUERY, AT, FOUND, OVERFLOWS = "__query", "__at", "__found", "__overflows"
_ROWS_AT_ONCE = 500_000
"""What a thread reads and answers at a time, where the layout lets it: few enough to stay in its caches."""

_EVER = -(2**62)
_OWN = [plans.KEY, *ROW_ORDER, plans.EVENT_ID, plans.DELETED]
"""The columns that say which row counts, and where."""


@dataclass(frozen=True)
class Asked:
    """Questions: which entity each is about, and as of when.

    `keys` has distinct entities, `__key` and `__shard`, by shard; `entities` the place among them of each
    question's (-1: it has none), `instants` microseconds.
    """

    keys: pl.DataFrame
    entities: Array
    instants: Array

    @staticmethod
    def of(keys: pl.DataFrame, which: Array | None, instants: pl.Series) -> Asked:
        """Return questions about the rows `which` of `keys` (None: each in turn).

        `keys` has `__key` (null: no entity) and `__shard`; rows may repeat. A question without an instant has
        no entity either; a null among them would make them floats, in which they are not exact.
        """
        numbered = keys.with_row_index("row")
        key = keys[plans.KEY]
        if not key.null_count() and (key[1:] > key[:-1]).all():  # as those of whole numbers are
            ordered = numbered[np.argsort(keys[plans.SHARD].to_numpy(), kind="stable")]
        else:
            ordered = numbered.drop_nulls().sort(plans.SHARD, plans.KEY)
        key = ordered[plans.KEY]
        is_first = np.append(True, (key[1:] != key[:-1]).to_numpy())[: len(key)]
        distinct = ordered if is_first.all() else ordered.filter(is_first)
        place = np.full(len(keys), -1)
        place[ordered["row"].to_numpy()] = np.cumsum(is_first) - 1
        return Asked(
            distinct.select(plans.KEY, plans.SHARD),
            place if which is None else place[which],
            instants.fill_null(0).to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.entities)

    def key(self) -> pl.Series:
        """Return each question's key, null where it has none."""
        return _gather(self.keys[plans.KEY], self.entities)


class TableReader:
    """One version of an offline table, cut at positions; `positions` tells which."""

    def __init__(self, table: OfflineTable, cut: Mapping[str, int] | None = None) -> None:
        self._table = table
        self._snapshot = table.snapshot()
        self._cut = None if cut is None else dict(cut)
        known = tables.row_partitions(table.positions(self._snapshot))
        self.positions: dict[str, int] = known if self._cut is None else self._cut
        if any(known.get(name, 0) < end for name, end in self.positions.items()):
            raise OperatorError(
                "The offline table holds less than the positions asked for.",
                hint="Ingest what is missing, or restore the table.",
            )

    @property
    def exists(self) -> bool:
        """Whether anything was ever written to the table."""
        return self._snapshot is not None

    @cached_property
    def names(self) -> list[str]:
        """The table's columns."""
        assert self._snapshot is not None
        return self._table.lazy(self._snapshot).collect_schema().names()

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of shards to read one by one, in order."""
        return [(0, SHARDS)] if self._snapshot is None else self._table.ranges(self._snapshot, _ROWS_AT_ONCE)

    def newest_ingest(self) -> int | None:
        """Return when the newest of the rows became known; None without rows."""
        if self._snapshot is None:
            return None
        query = self._table.lazy(self._snapshot, [plans.INGEST_TIME], cut=self._cut)
        newest: int | None = query.select(pl.col(plans.INGEST_TIME).max().dt.epoch("us")).collect().item()
        return newest

    def read(
        self,
        plan: SetPlan,
        columns: Sequence[str] | None,
        *,
        shards: tuple[int, int] | None = None,
        event_times: tuple[int, int] | None = None,
        keys: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Return those of these columns (None: all) that are there, optionally of these keys alone."""
        assert self._snapshot is not None
        names = [n for n in self.names if columns is None or n in columns]
        query = self._table.lazy(
            self._snapshot,
            names,
            shards=shards,
            cut=self._cut,
            event_times=event_times,
            schema=plan.columns,
        )
        if keys is not None:
            query = query.join(keys.lazy(), on=plans.KEY, how="inner")
        return query.collect()

    def unique_rows(
        self, plan: SetPlan, event_times: tuple[int, int], *, as_known: bool = False
    ) -> pl.DataFrame:
        """Return the set's rows in [start, end), one per event id, by event time and row order.

        Those that are deleted are left out.

        With `as_known`, of the copies of an id one that was known at its event time, where there is one.
        """
        if self._snapshot is None:
            raise OperatorError(
                f"'{plan.name}' has no rows yet.", hint=f"Run: featurestore ingest {plan.name}"
            )
        frame = self.read(plan, None, event_times=event_times)
        frame = frame.sort([plans.EVENT_TIME, plans.KEY, *order_columns(frame)[1:]])
        facts = undeleted(_one_per_id(plan, frame))
        if as_known and plans.EVENT_ID in frame.columns:
            identity = [plans.KEY, plans.EVENT_TIME, plans.EVENT_ID]
            frame = undeleted(frame).join(facts, on=identity, how="semi", maintain_order="left")
            known = frame[plans.INGEST_TIME] <= frame[plans.EVENT_TIME]
            first = _one_per_id(plan, frame.filter(known))
            later = _one_per_id(plan, frame.filter(~known)).join(first, on=identity, how="anti")
            return pl.concat([first, later]).sort([plans.EVENT_TIME, plans.KEY], maintain_order=True)
        return facts


class FrameReader:
    """Transformed rows in memory, read as a table is."""

    exists = True

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    @property
    def names(self) -> list[str]:
        """The rows' columns."""
        return self._rows.columns

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of shards to read one by one, in order."""
        return [(0, SHARDS)]

    def read(
        self,
        plan: SetPlan,  # noqa: ARG002
        columns: Sequence[str] | None,
        *,
        shards: tuple[int, int] | None = None,
        event_times: tuple[int, int] | None = None,
        keys: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Return rows as `TableReader.read` does."""
        rows = self._rows
        if shards is not None:
            rows = rows.filter(pl.col(plans.SHARD).is_between(shards[0], shards[1] - 1))
        if event_times is not None:
            at = pl.col(plans.EVENT_TIME).dt.epoch("us")
            rows = rows.filter((at >= event_times[0]) & (at < event_times[1]))
        if keys is not None:
            rows = rows.join(keys, on=plans.KEY, how="inner")
        return rows.select(n for n in rows.columns if columns is None or n in columns)


def _one_per_id(plan: SetPlan, frame: pl.DataFrame) -> pl.DataFrame:
    """Return sorted rows without those whose id another one stands for (DESIGN 3.8)."""
    if plans.EVENT_ID not in frame.columns:
        return frame
    identity = [plans.KEY, plans.EVENT_TIME, plans.EVENT_ID]
    if plan.source.on_duplicate == "replace":
        return frame.unique(identity, keep="last", maintain_order=True)
    if plans.DELETED in frame.columns:
        retracted = pl.col(plans.DELETED).any().over(identity)
        frame = frame.filter(pl.col(plans.DELETED) | ~retracted)
    return frame.unique(identity, keep="first", maintain_order=True)


def undeleted(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that are no deletions."""
    return frame.filter(~pl.col(plans.DELETED)) if plans.DELETED in frame.columns else frame


def as_of_values(
    plan: SetPlan,
    reader: TableReader | FrameReader,
    asked: Asked,
    features: Sequence[str],
    *,
    as_known: bool = False,
    extra: pl.DataFrame | None = None,
    finds: bool = False,
) -> pl.DataFrame:
    """Return the features for each question, in order; `__found` too where the caller asks (`finds`).

    That tells whether its entity has a row: one is visible, and not past the set's ttl. `__overflows` counts
    features that are null because their types cannot hold them. `extra` are rows of the set, with `__query`
    (0 … n-1), that their own question sees whether the table has them or not. A range of shards is read and
    answered at a time, each by a thread.
    """
    # the largest first, so that no thread is left alone with a hot entity's
    parts = sorted(_parts(asked, reader.ranges()), key=lambda part: -len(part.questions))
    work = _Work(plan, reader, features, as_known, extra, finds)
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as threads:
        pieces = list(threads.map(work.answer, parts))
        if len(parts) == 1:
            return pieces[0]
        place = np.empty(len(asked), np.uint32 if len(asked) < 2**32 else np.uint64)
        place[np.concatenate([part.questions for part in parts])] = np.arange(len(asked))
        back = pl.Series(place)

        def in_order(name: str) -> pl.Series:
            return pl.concat([piece[name] for piece in pieces], rechunk=True).gather(back)

        return pl.DataFrame(list(threads.map(in_order, pieces[0].columns)))


@dataclass(frozen=True)
class _Part:
    """The questions about entities of a range of shards: their numbers, the keys, and codes into these."""

    shards: tuple[int, int]
    questions: Array
    keys: pl.Series
    codes: Array  # len(keys): no entity
    instants: Array


def _parts(asked: Asked, ranges: Sequence[tuple[int, int]]) -> list[_Part]:
    """Return the questions by range of shards, those without an entity with the first; one part at least."""
    edges = np.searchsorted(asked.keys[plans.SHARD].to_numpy(), [low for low, _ in ranges] + [SHARDS])
    number = np.repeat(np.arange(len(ranges)), np.diff(edges)).astype(np.uint8)
    number = np.append(number, np.uint8(0))[asked.entities]  # the last is that of -1
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(ranges)))
    parts = []
    for place, shards in enumerate(ranges):
        mine = order[ends[place - 1] if place else 0 : ends[place]]
        if len(mine) or len(asked) == place == 0:
            keys = asked.keys[plans.KEY].slice(edges[place], edges[place + 1] - edges[place])
            codes = asked.entities[mine]
            codes = np.where(codes < 0, len(keys), codes - edges[place])
            parts.append(_Part(shards, mine, keys, codes, asked.instants[mine]))
    return parts


class _Work:
    """Features of one set for many questions. `answer` may run in several threads."""

    def __init__(
        self,
        plan: SetPlan,
        reader: TableReader | FrameReader,
        features: Sequence[str],
        as_known: bool,
        extra: pl.DataFrame | None,
        finds: bool,
    ) -> None:
        wanted = set(features)
        self._plan = plan
        self._reader = reader
        self._as_known = as_known
        self._extra = extra
        self._plain = [f for f in plan.plain if f.name in wanted]
        self._layout = Layout.of(tuple(a for a in plan.aggregates if a.name in wanted))
        self._inputs = PartsPlan.of(self._layout.inputs)
        self._columns = _columns(self._inputs, [f.name for f in self._plain])
        self._orders = as_known or extra is not None  # reads what orders rows of one instant
        self._reach = _reach(plan, self._layout, newest=finds or bool(self._plain))

    def answer(self, part: _Part) -> pl.DataFrame:
        """Return the features of each of the part's questions, `__found` and `__overflows`."""
        rows, codes = self._rows(part)
        size = len(self._layout.inputs)
        known = entity_rows(self._inputs, rows, codes, len(part.keys) + 1, size)
        more = None if self._extra is None else _extra_rows(self._inputs, self._extra, part.questions, size)
        plan = self._plan
        rules = Rules(self._layout, plan.left_closed, plan.ttl, plan.source.on_duplicate == "replace")
        answer = evaluate(known, part.codes, part.instants, rules, as_known=self._as_known, extra=more)
        return _piece(rows, answer, self._plain, self._layout)

    def _rows(self, part: _Part) -> tuple[pl.DataFrame, Array]:
        """Return the rows of the part's entities, in order, and their codes; none where there are none."""
        if not self._reader.exists or not len(part.keys):
            if self._extra is not None:
                return self._extra.clear(), np.zeros(0, np.int64)
            schema = {f.name: f.type.polars() for f in self._plan.columns} | _store_schema(self._plan)
            return pl.DataFrame(schema=schema), np.zeros(0, np.int64)
        low = _EVER if self._reach is None else max(_EVER, int(part.instants.min()) - self._reach)
        times = (low, min(int(part.instants.max()), LAST) + 1)
        shards = None if part.shards == (0, SHARDS) else part.shards
        while True:
            orders = self._orders
            names = [plans.KEY, plans.EVENT_TIME, plans.EVENT_ID, plans.DELETED, *self._columns]
            if orders:
                names += [plans.ORDER, plans.INGEST_TIME, plans.ROW_HASH]
            frame = self._reader.read(self._plan, names, shards=shards, event_times=times)
            arranged = _arranged(frame, part.keys, orders)
            if arranged is not None:
                return arranged
            self._orders = True  # some rows are of one entity and instant


def _reach(plan: SetPlan, layout: Layout, *, newest: bool) -> int | None:
    """Return how far before a question's instant rows matter, in microseconds; None: however far."""
    widths = [plan.ttl] if newest else []
    for window in layout.windows:
        whole = None if window.width is None else window.width + window.offset + (window.granularity or 0)
        widths.append(whole)
    return None if None in widths else max((width for width in widths if width is not None), default=0)


def _arranged(frame: pl.DataFrame, keys: pl.Series, orders: bool) -> tuple[pl.DataFrame, Array] | None:
    """Return the rows that have one of the keys, by its place and in the order of rows, and these places.

    None where rows are of one entity and instant, and the columns that order those are not there (`orders`).
    """
    codes = _codes(frame[plans.KEY], keys)
    frame = frame.drop(plans.KEY)
    if (codes < 0).any():
        frame, codes = frame.filter(pl.Series(codes >= 0)), codes[codes >= 0]
    times = frame[plans.EVENT_TIME].dt.epoch("us").to_numpy()
    order = order_by_time(codes, times, len(keys))
    if order is not None:
        codes, times = codes[order], times[order]
    tied = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    if tied.any():
        if not orders:
            return None
        places = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        order = np.arange(len(codes)) if order is None else order
        rows = frame.select(order_columns(frame))[order[places]]
        ordered = rows.with_columns(pl.Series("code", codes[places])).with_row_index("row")
        order[places] = order[places][ordered.sort("code", *rows.columns)["row"].to_numpy()]
    return (frame if order is None else frame[order]), codes


def _codes(rows: pl.Series, keys: pl.Series) -> Array:
    """Return the place of each row's key among `keys`; -1: it is none of them.

    Files are sorted by key where they were compacted, so only a row whose neighbour has another is looked up.
    """
    starts = np.flatnonzero((rows != rows.shift(1)).fill_null(True).to_numpy())
    places = pl.DataFrame({"key": keys, "place": np.arange(len(keys))})
    heads = rows.gather(starts).to_frame("key")
    found = heads.join(places, on="key", how="left", maintain_order="left")["place"].fill_null(-1)
    return np.repeat(found.to_numpy(), np.diff(np.append(starts, len(rows))))


def matched_rows(plan: SetPlan, reader: TableReader, base: pl.DataFrame, feature: str) -> pl.DataFrame:
    """Return `__query` and the feature's value in the row of the same event as each base row."""
    identity = [plans.KEY, plans.EVENT_TIME, plans.EVENT_ID]
    if not reader.exists or not base.height:
        return pl.DataFrame(schema={QUERY: pl.Int64, feature: _type(plan, feature).polars()})
    times = base[plans.EVENT_TIME].dt.epoch("us")
    low, high = times.min(), times.max()
    assert isinstance(low, int)
    assert isinstance(high, int)
    bounds = (low, min(high, LAST - 1) + 1)
    keys = base.select(plans.KEY).unique()
    rows = reader.read(plan, [feature, *_OWN], event_times=bounds, keys=keys)
    rows = undeleted(_one_per_id(plan, rows.sort([plans.KEY, *order_columns(rows)])))
    return (
        base.select(QUERY, *identity)
        .join(rows.select(*identity, feature), on=identity, how="inner")
        .drop(identity)
    )


def _columns(parts: PartsPlan, plain: list[str]) -> list[str]:
    names = dict.fromkeys(plain)
    names.update(dict.fromkeys(name for name, _ in parts.columns))
    names.update(dict.fromkeys(by for by, _ in parts.categories))
    for condition in parts.conditions:
        names.update(dict.fromkeys(sorted(condition.columns)))
    return list(names)


def _store_schema(plan: SetPlan) -> dict[str, pl.DataType]:
    instant = pl.Datetime("us", "UTC")
    schema: dict[str, pl.DataType] = {
        plans.EVENT_TIME: instant,
        plans.INGEST_TIME: instant,
        plans.ROW_HASH: pl.Int64(),
    }
    if plan.source.order_by is not None:
        schema[plans.ORDER] = pl.Int64()
    if plan.source.event_id:
        schema[plans.EVENT_ID] = pl.Int64()
    if plan.source.deleted is not None:
        schema[plans.DELETED] = pl.Boolean()
    return schema


def _extra_rows(parts: PartsPlan, extra: pl.DataFrame, questions: Array, inputs: int) -> EntityRows:
    """Return the extra rows of the questions asked, coded by the question's place; none without an entity."""
    extra = extra.filter(pl.col(plans.KEY).is_not_null())
    places = pl.DataFrame({QUERY: questions}).with_row_index("__place")
    mine = extra.join(places, on=QUERY, how="inner").sort("__place")
    return entity_rows(parts, mine, mine["__place"].cast(pl.Int64).to_numpy(), len(questions), inputs)


def _piece(rows: pl.DataFrame, answer: Answer, plain: Sequence[Field], layout: Layout) -> pl.DataFrame:
    found = (answer.row >= 0) & ~answer.expired
    overflows = np.zeros(len(found), np.int64)
    for output, finished in zip(layout.outputs, answer.aggregates, strict=True):
        if output.overflows is not None:
            overflows += output.overflows(finished)
    index = np.where(found, answer.row, -1)
    columns = [pl.Series(FOUND, found), pl.Series(OVERFLOWS, overflows)]
    columns += [_gather(rows[f.name], index) for f in plain]
    for output, (values, there) in zip(layout.outputs, answer.aggregates, strict=True):
        columns.append(_series(output.name, values, there, output.type))
    return pl.DataFrame(columns)


def _gather(values: pl.Series, index: Array) -> pl.Series:
    """Return the values at places, null at -1."""
    places = pl.Series(index)
    return values.gather(places if (index >= 0).all() else places.set(places < 0, None))


def _series(name: str, values: np.ndarray, found: np.ndarray, kind: DataType) -> pl.Series:
    """Return finished values as a column of their type, null where not found."""
    if values.dtype == object or kind.name == "decimal":
        return row_values_series(name, plain_values(values, found, kind), kind)
    series = pl.Series(name, values)
    if kind.name == "date":
        series = series.cast(pl.Int32)
    series = series.cast(kind.polars())
    return series if found.all() else series.set(pl.Series(~found), None)


def _type(plan: SetPlan, feature: str) -> DataType:
    return next(f.type for f in plan.features if f.name == feature)
