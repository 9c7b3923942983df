"""Rows of a case on their way into the stores, as a mode says."""

from __future__ import annotations

import base64
import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from threading import Event
from typing import Any

import polars as pl
from conformance.cases import Case, typed
from conformance.modes import Mode

from featurestore import FeatureStore, tables
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SourcePlan
from featurestore.streaming import drain
from featurestore.types import DataType

Row = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def rows_of(case: Case, source: SourcePlan) -> list[Row]:
    """Return a source's rows, typed, with what the case leaves out: ids, and when they became known."""
    made = []
    for number, given in enumerate(case.rows.get(source.name, ())):
        row = {f.name: typed(given.get(f.name), f.type, case.t0) for f in source.schema}
        if source.ingest_time is not None and source.ingest_time not in given and source.event_time:
            row[source.ingest_time] = row[source.event_time]
        if source.event_id == ("id",) and "id" not in given:
            row["id"] = f"r{number}"
        made.append(row)
    return made


def frame(source: SourcePlan, rows: Sequence[Row]) -> pl.DataFrame:
    """Return typed rows as a frame of the source's columns."""
    return pl.DataFrame([_series(f.name, f.type, [row[f.name] for row in rows]) for f in source.schema])


def _series(name: str, kind: DataType, values: list[Any]) -> pl.Series:
    if kind.name == "timestamp":
        return pl.Series(name, values, pl.Int64).cast(kind.polars())
    if kind.name == "date":
        return pl.Series(name, values, pl.Int32).cast(kind.polars())
    return pl.Series(name, values, kind.polars())


def message(source: SourcePlan, row: Row) -> bytes:
    """Return a typed row as a producer's JSON; what JSON cannot say is text."""
    return json.dumps({f.name: _said(row[f.name], f.type) for f in source.schema}).encode()


def _said(value: Any, kind: DataType) -> Any:
    if value is None:
        return None
    if kind.item is not None:
        return [_said(item, kind.item) for item in value]
    if kind.name == "timestamp":
        return (_EPOCH + timedelta(microseconds=value)).isoformat()
    if kind.name == "date":
        return date.fromordinal(value + _EPOCH_DAY).isoformat()
    if kind.name == "binary":
        return base64.b64encode(value).decode()
    if kind.name == "decimal" or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


class Arrival:
    """One case's rows going into the stores of a project, as one mode says."""

    def __init__(self, store: FeatureStore, case: Case, mode: Mode) -> None:
        self._store = store
        self._case = case
        self._mode = mode
        self._rng = random.Random(case.id)

    def run(self) -> None:
        """Bring all rows into the stores."""
        names = [*self._case.rows, *self._case.messages]
        for name in dict.fromkeys(names):
            source = self._store.catalog.source(name)
            first, rest = self._parts(self._items(source))
            if first and not self._case.both:
                self._ingest(source, first)
            if self._mode.overlap and source.event_id:
                rest = [*first, *rest]
            if self._case.both:
                first = rest = [*first, *rest]
                self._ingest(source, first)
            if self._mode.batch < 1 or self._case.both:
                self._stream(source, rest)
        if self._mode.renewed:
            self._store.compact()
            for plan in self._store.catalog.live_sets():
                if plan.online:
                    self._store.materialize(plan.name)
            self._store.catalog.forget()

    def _items(self, source: SourcePlan) -> list[Any]:
        """Return typed rows, or JSON texts, in the order of the mode."""
        texts = self._case.messages.get(source.name)
        items = list(texts) if texts is not None else rows_of(self._case, source)
        if self._mode.order == "reversed":
            items.reverse()
        elif self._mode.order == "shuffled":
            self._rng.shuffle(items)
        return items

    def _parts(self, items: list[Any]) -> tuple[list[Any], list[Any]]:
        cut = round(self._mode.batch * len(items))
        return items[:cut], items[cut:]

    def _ingest(self, source: SourcePlan, items: list[Any]) -> None:
        pieces = [[item] for item in items] if self._mode.stops else [items]
        if self._mode.files and len(items) > 1:
            pieces = [items[: len(items) // 2], items[len(items) // 2 :]]
        for number, piece in enumerate(pieces):
            for _ in range(2 if self._mode.again else 1):
                self._store.ingest(source.name, self._input(source, piece, number))
                if not source.event_id:
                    break  # without ids, a file's rows again are other rows, unless it is the same file

    def _input(self, source: SourcePlan, piece: list[Any], number: int) -> Any:
        """Return a frame, or the path of a file; JSON texts are always a file."""
        path = self._store.root / f"{source.name}{number}.parquet"
        if self._case.messages.get(source.name) is not None:
            path = path.with_suffix(".ndjson")
            path.write_text("".join(f"{text}\n" for text in piece))
        elif self._mode.files:
            frame(source, piece).write_parquet(path)
        else:
            return frame(source, piece)
        return path

    def _stream(self, source: SourcePlan, items: list[Any]) -> None:
        payloads = [item.encode() if isinstance(item, str) else message(source, item) for item in items]
        if self._mode.again and source.event_id:
            payloads += payloads[::-1]
        topic = self._store.environment.stream(source)
        whole = self._mode.engine == "local" or not self._mode.stops
        for piece in [payloads] if whole else _pieces(payloads, 4):
            topic.append([(None, payload) for payload in piece])
            ends = _ends(topic)
            for reached in _steps(ends) if self._mode.stops and whole else ():
                self._run(source, reached)
            self._run(source, ends)
        if self._mode.again:  # landing is lost: everything is read again, and each store drops what it has
            landing = tables.landing_table(source)
            for folder in self._store.root.rglob(landing):
                shutil.rmtree(folder)
            self._run(source, ends)

    def _run(self, source: SourcePlan, ends: Mapping[str, int]) -> None:
        """Run the mode's engine until every store has what lies below `ends`."""
        if self._mode.engine == "local" and self._mode.stops:
            drain(self._store, source.name, ends)
            return
        if self._mode.engine == "local":
            self._store.drain([source.name])
            return
        wanted = self._behind(source, ends)
        if not wanted:
            return
        stop = Event()

        def look(counts: Mapping[str, Mapping[str, int]]) -> None:
            if counts[source.name].get("records", 0) >= wanted:
                stop.set()

        self._store.stream(
            [source.name], engine=self._mode.engine, workers=self._mode.workers, stop=stop, report=look
        )
        assert not self._behind(source, ends), f"the stream of {source.name} stopped too early"

    def _behind(self, source: SourcePlan, ends: Mapping[str, int]) -> int:
        """Return how many records below `ends` a stream will read: those that some store lacks."""
        landing = self._store.environment.offline.table(tables.landing_table(source))
        reached = [landing.positions(snapshot) if (snapshot := landing.snapshot()) else {}]
        for plan in self._store.catalog.live_sets():
            if plan.source.name == source.name:
                table = self._store.environment.rows_table(plan)
                reached.append(table.positions(snapshot) if (snapshot := table.snapshot()) else {})
                if plan.online:
                    generation = self._store.catalog.serving(plan)
                    writer = OnlineWriter(plan, self._store.environment.online, generation)
                    reached += writer.positions().values()
        return sum(max(0, end - min(r.get(name, 0) for r in reached)) for name, end in ends.items())


def _ends(topic: Any) -> dict[str, int]:
    ends = {}
    for partition in topic.partitions():
        reader = topic.reader(partition, None)
        ends[partition] = reader.end()
        reader.close()
    return ends


def _pieces(items: list[Any], most: int) -> list[list[Any]]:
    """Return the items in at most that many pieces; one where there are none."""
    size = max(1, -(-len(items) // most))
    return [items[start : start + size] for start in range(0, max(1, len(items)), size)]


def _steps(ends: Mapping[str, int]) -> list[dict[str, int]]:
    """Return the ends of every micro-batch of two records, all partitions together."""
    most = max(ends.values(), default=0)
    return [{name: min(end, reached) for name, end in ends.items()} for reached in range(2, most, 2)]
