"""Scratch stores of one case: the rows applied one way, then read as a training row and as a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore import tables
from featurestore.cases.prepared import Case, CaseRow
from featurestore.cases.topic import Topic
from featurestore.catalog import sets_of
from featurestore.contracts import OfflineTable, OnlineStore, extension
from featurestore.errors import RequestError
from featurestore.instants import format_instant
from featurestore.online.reader import VectorReader
from featurestore.online.requests import outward
from featurestore.online.writer import OnlineWriter, mark_of
from featurestore.plans import INGEST_TIME, SetPlan, SourcePlan
from featurestore.types import DataType, Field

if TYPE_CHECKING:
    import polars as pl

AT = "__case_at"
_encode = msgspec.json.Encoder().encode


class Scratch:
    """Offline tables in a folder of its own, and generations with a prefix of its own."""

    def __init__(self, case: Case, root: Path, folder: Path, online: OnlineStore, prefix: str) -> None:
        self._case = case
        self._offline = extension("offline", "delta")({"kind": "delta", "path": str(folder)}, root)
        self._online = online
        self._prefix = prefix
        self._sets = sets_of(case.plan)
        self._batch = extension("engines", "batch")()

    # Applying rows

    def ingest(self, source: SourcePlan, rows: Sequence[CaseRow]) -> None:
        """Apply rows as a batch: offline, then online."""
        from featurestore.rows.frames import FrameSource

        if not rows:
            return
        dead = self._offline.table(tables.DEAD_LETTERS)
        for plan in self._sets_of(source):
            frame = FrameSource(_frame(source, rows))
            self._batch.ingest(plan, frame, self._table(plan), dead, mode="append")
            for writer in self._writers(plan):
                self._batch.fill(plan, self._table(plan), writer)

    def stream(self, source: SourcePlan, rows: Sequence[CaseRow], engine: str) -> None:
        """Apply rows as events of a topic, each known when its record was."""
        run = extension("engines", engine)
        topic = Topic([(row.ingest_time, _payload(source, row)) for row in rows])
        targets = [(plan, self._table(plan), self._writers(plan)) for plan in self._sets_of(source)]
        job = run.job(
            source,
            targets,
            self._offline.table(tables.landing_table(source)),
            self._offline.table(tables.DEAD_LETTERS),
        )
        run.run(lambda: job, topic, topic.exhausted, changed=lambda: False, counts=run.counts(source.name))

    def drop(self) -> None:
        """Delete the generations."""
        for plan in self._sets:
            if plan.online:
                self._online.drop(self._generation(plan))
                self._online.drop(mark_of(self._generation(plan)))

    # Reading

    def offline(self) -> dict[str, Any]:
        """Return the training row's values, as Python knows them."""
        from featurestore.rows.values import series_row_values

        plan = self._case.plan
        options = self._batch.options(AT, self._case.as_known)
        made = self._batch.training_set(plan, self._table, self._question(), options)
        frame: pl.DataFrame = made.to_polars()
        if not frame.height:
            raise RequestError(
                "The training set leaves the row out: its label's instant is not reached.",
                hint="Give a row that happens later.",
            )
        types = {f.name: f.type for f in plan.outputs}
        if plan.label is not None:
            types[plan.label.output] = plan.label.type
        return {n: outward(series_row_values(frame[n], kind)[0], kind) for n, kind in types.items()}

    def online(self) -> tuple[dict[str, Any], str | None]:
        """Return the vector's values, as Python knows them, and what was wrong with the request."""
        reader = VectorReader(self._case.plan, self._online, self._generation, unbounded=True)
        at = None if self._case.plan.base is not None else self._case.at
        given = self._case.request
        if at is not None:  # a label's own key is none of the request's
            wanted = {*self._case.plan.request_keys, *(f.name for f in self._case.plan.inputs)}
            given = {name: value for name, value in given.items() if name in wanted}
        result = reader.read([given], as_of=at, now=self._case.at)
        return result.to_dicts()[0], result.errors[0]

    def refused(self) -> list[str]:
        """Return what went to the dead letters, each as `code: message`."""
        table = self._offline.table(tables.DEAD_LETTERS)
        snapshot = table.snapshot()
        if snapshot is None:
            return []
        rows = table.lazy(snapshot, ["code", "message"]).collect()
        return [f"{code}: {message}" for code, message in rows.select("code", "message").iter_rows()]

    def _question(self) -> pl.DataFrame:
        """Return the request as one row of entities, or of the base's source."""
        import polars as pl

        plan, request = self._case.plan, self._case.request
        if plan.base is not None:
            fields = [*plan.base.source.schema, *plan.inputs]
        else:
            fields = list(plan.inputs)
            for lookup in plan.lookups:
                fields += [
                    Field(column, key.type)
                    for column, key in zip(lookup.keys, lookup.set.keys, strict=True)
                    if column in request
                ]
            if plan.label is not None:
                fields += [
                    Field(column, key.type)
                    for column, key in zip(plan.label.keys, plan.label.set.keys, strict=True)
                ]
        columns = {f.name: pl.Series(f.name, [request.get(f.name)], f.type.polars()) for f in fields}
        frame = pl.DataFrame(list(columns.values()))
        if plan.base is not None:
            return frame
        instant = pl.Series(AT, [self._case.at]).cast(pl.Datetime("us", "UTC"))
        return frame.with_columns(instant)

    def _sets_of(self, source: SourcePlan) -> list[SetPlan]:
        return [plan for plan in self._sets if plan.source.name == source.name]

    def _table(self, plan: SetPlan) -> OfflineTable:
        table: OfflineTable = self._offline.table(tables.rows_table(plan))
        return table

    def _generation(self, plan: SetPlan) -> str:
        return f"{self._prefix}-{plan.name}"

    def _writers(self, plan: SetPlan) -> tuple[OnlineWriter, ...]:
        if not plan.online:
            return ()
        return (OnlineWriter(plan, self._online, self._generation(plan), keep_all=True),)


def streams(source: SourcePlan, row: CaseRow) -> bool:
    """Tell whether a row may come by the source's stream: what JSON can say, from the cutover on."""
    if source.stream is None or (source.cutover is not None and row.ingest_time < source.cutover):
        return False
    return all(_is_finite(value) for value in row.values.values())


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _frame(source: SourcePlan, rows: Sequence[CaseRow]) -> pl.DataFrame:
    """Return rows as a frame that a batch source would give, with the times at which they became known."""
    import polars as pl

    from featurestore.rows.values import row_values_series

    columns = [row_values_series(f.name, [row.values[f.name] for row in rows], f.type) for f in source.schema]
    if source.ingest_time is None:
        known = pl.Series(INGEST_TIME, [row.ingest_time for row in rows], pl.Int64)
        columns.append(known.cast(pl.Datetime("us", "UTC")))
    return pl.DataFrame(columns)


def _payload(source: SourcePlan, row: CaseRow) -> bytes:
    """Return a row as a producer's JSON; instants are text, whatever `epoch:` says of integers."""
    return _encode({f.name: _said(row.values[f.name], f.type) for f in source.schema})


def _said(value: Any, kind: DataType) -> Any:
    if value is None:
        return None
    if kind.name == "timestamp":
        return format_instant(value)
    if kind.name == "list" and kind.item is not None:
        return [_said(item, kind.item) for item in value]
    return outward(value, kind)
