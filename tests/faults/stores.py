"""The contracts between the core and its stores, with a point of the schedule before every call."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import deltalake
import sqlalchemy as sa
from faults.scheduler import Actor

from featurestore.contracts import (
    EntityRead,
    OnlineStore,
    RecordBatch,
    ShardState,
    StreamReader,
    StreamSource,
)
from featurestore.registry import Registry

_RECORDS = 3  # what one poll returns at most, so that a few records are several turns
_SHARDS = 8  # up to so many shards of one write are written one by one
_TABLES = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")


class PointedOnline:
    """An OnlineStore whose calls are points."""

    def __init__(self, store: OnlineStore, actor: Actor) -> None:
        self._store = store
        self._actor = actor

    def _point(self, label: str, generation: str, writes: bool = False) -> None:
        self._actor.point(f"online.{label}", (f"online/{generation}", writes))

    def read(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        self._point("read", generation)
        return self._store.read(generation, reads)

    def read_many(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        self._actor.point(
            "online.read_many", *((f"online/{generation}", False) for generation, _ in requests)
        )
        return self._store.read_many(requests)

    def shards(self, generation: str, shards: Sequence[int]) -> list[ShardState]:
        self._point("shards", generation)
        return self._store.shards(generation, shards)

    def read_for_write(
        self, generation: str, reads: Mapping[int, Sequence[EntityRead]]
    ) -> dict[int, tuple[ShardState, list[list[bytes | None]]]]:
        self._point("read_for_write", generation)
        return self._store.read_for_write(generation, reads)

    def write(self, generation: str, writes: Sequence[Any]) -> list[bool]:
        """Write every shard by itself, as some stores do; a checkpoint of many shards in one call."""
        calls = [[write] for write in writes] if len(writes) <= _SHARDS else [writes]
        done: list[bool] = []
        for call in calls:
            self._point("write", generation, True)
            done += self._store.write(generation, call)
        return done

    def drop(self, generation: str) -> None:
        self._point("drop", generation, True)
        self._store.drop(generation)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class PointedStream:
    """A StreamSource whose calls are points, and whose polls return few records and never wait."""

    def __init__(self, source: StreamSource, actor: Actor, topic: str) -> None:
        self._source = source
        self._actor = actor
        self._topic = f"topic/{topic}"

    def point(self, label: str, writes: bool = False) -> None:
        self._actor.point(f"stream.{label}", (self._topic, writes))

    def partitions(self) -> list[str]:
        return self._source.partitions()

    def reader(self, partition: str, sequence: int | None) -> PointedReader:
        return PointedReader(self._source.reader(partition, sequence), self)

    def append(self, records: Sequence[tuple[bytes | None, bytes]]) -> list[tuple[str, int]]:
        self.point("append", True)
        return self._source.append(records)

    def close(self) -> None:
        self._source.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class PointedReader:
    """A StreamReader of a PointedStream."""

    def __init__(self, reader: StreamReader, stream: PointedStream) -> None:
        self._reader = reader
        self._stream = stream
        self.partition = reader.partition

    def poll(self, max_records: int, timeout: float) -> RecordBatch | None:
        self._stream.point("poll")
        return self._reader.poll(min(max_records, _RECORDS), 0.0)

    def end(self) -> int:
        self._stream.point("end")
        return self._reader.end()

    def close(self) -> None:
        self._reader.close()


def point_registry(registry: Registry, actor: Actor) -> None:
    """Make every transaction of a registry a point; what it touches is read off its statements."""
    engine = registry._database._engine

    def began(_: sa.Connection) -> None:
        actor.point("registry")

    def executed(_: Any, __: Any, statement: str, *___: Any) -> None:
        writes = not statement.lstrip().startswith(("SELECT", "BEGIN", "PRAGMA"))
        for name in _TABLES.findall(statement):
            if name != "registry_version":  # every writer's lock
                actor.touch(f"registry/{name}", writes)

    sa.event.listen(engine, "engine_connect", began)
    sa.event.listen(engine, "before_cursor_execute", executed)


_here = threading.local()


@contextlib.contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Make calls of the Delta library in this thread points of the actor."""
    _here.actor = actor
    try:
        yield
    finally:
        _here.actor = None


@contextlib.contextmanager
def pointed_delta() -> Iterator[None]:
    """Make opening a Delta table, writing to it, and committing to it points, inside `compact` as well."""
    opened, committed = deltalake.DeltaTable.__init__, deltalake.DeltaTable.create_write_transaction
    written = deltalake.write_deltalake

    def point(label: str, uri: Any, writes: bool) -> None:
        actor = getattr(_here, "actor", None)
        if actor is not None:
            name = str(uri).rstrip("/").rpartition("/")[2]
            actor.point(f"delta.{label} {name}", (f"delta/{name}", writes))

    def init(self: Any, table_uri: Any, *args: Any, **options: Any) -> None:
        point("open", table_uri, False)
        opened(self, table_uri, *args, **options)

    def write(table: Any, *args: Any, **options: Any) -> None:
        point("append", table if isinstance(table, str) else table.table_uri, True)
        written(table, *args, **options)

    def commit(self: Any, *args: Any, **options: Any) -> None:
        point("replace", self.table_uri, True)
        committed(self, *args, **options)

    deltalake.DeltaTable.__init__ = init
    deltalake.DeltaTable.create_write_transaction = commit
    deltalake.write_deltalake = write
    try:
        yield
    finally:
        deltalake.DeltaTable.__init__ = opened
        deltalake.DeltaTable.create_write_transaction = committed
        deltalake.write_deltalake = written
