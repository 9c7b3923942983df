"""Look-ups in a feature set's offline table: values as of instants, and rows by event id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from featurestore import plans, tables
from featurestore.aggregates.functions import Finished, plain_values
from featurestore.aggregates.inputs import PartsPlan
from featurestore.aggregates.layout import Layout
from featurestore.contracts import OfflineTable
from featurestore.errors import OperatorError
from featurestore.instants import LAST
from featurestore.kernel import EntityRows, Rules, evaluate
from featurestore.keys import SHARDS
from featurestore.online.frames import entity_rows, order_columns
from featurestore.plans import SetPlan
from featurestore.rows.values import row_values_series
from featurestore.types import DataType, Field

QUERY, AT, FOUND = "__query", "__at", "__found"
_CODE = "__code"
_ROWS_AT_ONCE = 16_000_000


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

    def size(self) -> int:
        """Return how many rows there are to read, at most."""
        return 0 if self._snapshot is None else self._table.rows(self._snapshot)

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
        """Return rows with these columns and the store's own, optionally of these keys alone."""
        assert self._snapshot is not None
        present = self._table.lazy(self._snapshot).collect_schema().names()
        names = [n for n in present if n.startswith("__") or columns is None or n in columns]
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

    def size(self) -> int:
        """Return how many rows there are."""
        return self._rows.height

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
        rows = rows.select(n for n in rows.columns if n.startswith("__") or columns is None or n in columns)
        if shards is not None:
            rows = rows.filter(pl.col(plans.SHARD).is_between(shards[0], shards[1] - 1))
        if event_times is not None:
            at = pl.col(plans.EVENT_TIME).dt.epoch("us")
            rows = rows.filter((at >= event_times[0]) & (at < event_times[1]))
        return rows if keys is None else rows.join(keys, on=plans.KEY, how="inner")


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
    asked: pl.DataFrame,
    features: Sequence[str],
    *,
    as_known: bool = False,
    extra: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the features for each row of `asked`, in its order, and whether its entity has a row.

    That is in `__found`: a row is visible, and not past the set's ttl. `asked` has `__query` (0 … n-1),
    `__key` (null: no entity), `__shard`, `__at` (microseconds). `extra` are rows of the set, with
    `__query`, that their own question sees whether the table has them or not. Rows are read by key; tables
    past some millions of rows a range of shards at a time.
    """
    aggregates = tuple(a for a in plan.aggregates if a.name in set(features))
    plain = [f for f in plan.plain if f.name in set(features)]
    layout = Layout.of(aggregates)
    parts = PartsPlan.of(layout.inputs)
    rules = Rules(layout, plan.left_closed, plan.ttl, plan.source.on_duplicate == "replace")
    columns = _columns(parts, [f.name for f in plain])
    pieces = []
    ranges = list(_ranges(reader.size()))
    for shards in ranges:
        part = (
            asked
            if shards is None
            else asked.filter(pl.col(plans.SHARD).is_between(shards[0], shards[1] - 1))
        )
        if not part.height:
            continue
        keys = part.select(plans.KEY).drop_nulls().unique().with_row_index(_CODE)
        keys = keys.with_columns(pl.col(_CODE).cast(pl.Int64))
        coded = part.join(keys, on=plans.KEY, how="left", maintain_order="left")
        known = _rows(plan, reader, columns, shards, keys, coded, extra)
        codes = coded[_CODE].fill_null(keys.height).to_numpy()
        rows = entity_rows(parts, known, known[_CODE].to_numpy(), keys.height + 1, len(layout.inputs))
        more = None if extra is None else _extra_rows(parts, extra, coded, len(layout.inputs))
        answer = evaluate(rows, codes, _instants(coded), rules, as_known=as_known, extra=more)
        pieces.append(_piece(part, known, answer.row, answer.expired, plain, layout, answer.aggregates))
    blank = asked.filter(pl.col(plans.SHARD).is_null()) if len(ranges) > 1 else asked.clear()
    if blank.height:
        pieces.append(_unknown(blank, plan, features))
    if not pieces:
        return pl.DataFrame(schema={f: _type(plan, f).polars() for f in features} | {FOUND: pl.Boolean})
    return pl.concat(pieces, how="diagonal").sort(QUERY).drop(QUERY)


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
    rows = reader.read(plan, [feature], event_times=bounds, keys=keys)
    rows = undeleted(_one_per_id(plan, rows.sort([plans.KEY, *order_columns(rows)])))
    return (
        base.select(QUERY, *identity)
        .join(rows.select(*identity, feature), on=identity, how="inner")
        .drop(identity)
    )


def _instants(asked: pl.DataFrame) -> np.ndarray:
    """Return the questions' instants as whole microseconds; a question without one has no entity either.

    Nulls would make them floats, in which (entity, instant) is not exact.
    """
    return asked[AT].fill_null(0).to_numpy()


def _columns(parts: PartsPlan, plain: list[str]) -> list[str]:
    names = dict.fromkeys(plain)
    names.update(dict.fromkeys(name for name, _ in parts.columns))
    names.update(dict.fromkeys(by for by, _ in parts.categories))
    for condition in parts.conditions:
        names.update(dict.fromkeys(sorted(condition.columns)))
    return list(names)


def _ranges(rows: int) -> Iterator[tuple[int, int] | None]:
    """Yield ranges of shards with some `_ROWS_AT_ONCE` rows each; None for all at once."""
    parts = min(SHARDS, 1 << (rows // _ROWS_AT_ONCE).bit_length())
    if parts == 1:
        yield None
        return
    step = SHARDS // parts
    for low in range(0, SHARDS, step):
        yield low, low + step


def _rows(
    plan: SetPlan,
    reader: TableReader | FrameReader,
    columns: list[str],
    shards: tuple[int, int] | None,
    keys: pl.DataFrame,
    asked: pl.DataFrame,
    extra: pl.DataFrame | None,
) -> pl.DataFrame:
    """Return the table's rows of these keys, coded and in order; none, of their shape, where it has none."""
    if not reader.exists:
        if extra is None:
            schema = {f.name: f.type.polars() for f in plan.columns} | _store_schema(plan)
            return pl.DataFrame(schema=schema | {_CODE: pl.Int64})
        return extra.clear().with_columns(pl.lit(0, pl.Int64).alias(_CODE))
    last = asked[AT].max()
    if not isinstance(last, int):  # no question has an instant: every base row was refused
        last = LAST
    frame = reader.read(plan, columns, shards=shards, event_times=(-(2**62), min(last, LAST) + 1), keys=keys)
    return frame.sort([_CODE, *order_columns(frame)])


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


def _extra_rows(parts: PartsPlan, extra: pl.DataFrame, asked: pl.DataFrame, inputs: int) -> EntityRows:
    """Return the extra rows of the questions asked, coded by the question's place; none without an entity."""
    extra = extra.filter(pl.col(plans.KEY).is_not_null())
    places = asked.select(QUERY).with_row_index("__place")
    mine = extra.join(places, on=QUERY, how="inner").sort("__place")
    return entity_rows(parts, mine, mine["__place"].cast(pl.Int64).to_numpy(), asked.height, inputs)


def _piece(
    asked: pl.DataFrame,
    rows: pl.DataFrame,
    newest: np.ndarray,
    expired: np.ndarray,
    plain: Sequence[Field],
    layout: Layout,
    aggregates: Sequence[Finished],
) -> pl.DataFrame:
    columns = [asked[QUERY], pl.Series(FOUND, (newest >= 0) & ~expired)]
    if plain:
        index = pl.Series(np.where((newest < 0) | expired, -1, newest))
        index = index.set(index < 0, None)
        columns += [rows[f.name].gather(index) for f in plain]
    for output, (values, found) in zip(layout.outputs, aggregates, strict=True):
        columns.append(_series(output.name, values, found, output.type))
    return pl.DataFrame(columns)


def _series(name: str, values: np.ndarray, found: np.ndarray, kind: DataType) -> pl.Series:
    """Return finished values as a column of their type, null where not found."""
    if values.dtype == object or kind.name == "decimal":
        return row_values_series(name, plain_values(values, found, kind), kind)
    series = pl.Series(name, values)
    if kind.name == "date":
        series = series.cast(pl.Int32)
    series = series.cast(kind.polars())
    return series if found.all() else series.set(pl.Series(~found), None)


def _unknown(asked: pl.DataFrame, plan: SetPlan, features: Sequence[str]) -> pl.DataFrame:
    """Return what questions without an entity see: no row, and empty windows."""
    blank = asked.with_columns(pl.lit(0, pl.Int16).alias(plans.SHARD))
    rows = pl.DataFrame(schema={f.name: f.type.polars() for f in plan.columns} | _store_schema(plan))
    layout = Layout.of(tuple(a for a in plan.aggregates if a.name in set(features)))
    parts = PartsPlan.of(layout.inputs)
    empty = entity_rows(parts, rows, np.zeros(0, np.int64), 1, len(layout.inputs))
    answer = evaluate(empty, np.zeros(blank.height, np.int64), _instants(blank), Rules(layout))
    plain = [f for f in plan.plain if f.name in set(features)]
    return _piece(blank, rows, answer.row, answer.expired, plain, layout, answer.aggregates)


def _type(plan: SetPlan, feature: str) -> DataType:
    return next(f.type for f in plan.features if f.name == feature)
