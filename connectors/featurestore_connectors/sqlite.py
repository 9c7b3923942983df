"""The online store in a SQLite file, where no server is wanted (DESIGN 7).

Three tables: the entities with their expiry, their fields, and the shards' states. Several processes may
use the file at once: readers never wait (write-ahead log), writers take turns. After a loss of power the
last commits may be missing, which the positions, written with them, repair.

Entities expire by this machine's clock, and are not read from then on. They are deleted by later writes, some
with each, and only as far as the rows that are written have come, too: a machine whose clock runs ahead
deletes nothing that is needed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featurestore import instants
from featurestore.contracts import EntityRead, EntityWrite, ShardState
from featurestore.errors import OperatorError, StoreUnavailable

_VERSION = 1
_FAR = 1 << 53  # ms; the instants fit into 64 bits
_PURGED = 500  # expired entities that one write removes at most
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entity (
  id INTEGER PRIMARY KEY, generation TEXT NOT NULL, shard INTEGER NOT NULL, key BLOB NOT NULL,
  expires INTEGER, UNIQUE (generation, shard, key));
CREATE INDEX IF NOT EXISTS entity_expires ON entity (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS field (
  entity INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (entity, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shard (
  generation TEXT NOT NULL, shard INTEGER NOT NULL, revision BLOB NOT NULL, positions BLOB NOT NULL,
  PRIMARY KEY (generation, shard)) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_STATE = "SELECT revision, positions FROM shard WHERE generation = ? AND shard = ?"
_FIELDS = """
SELECT name, value FROM entity JOIN field ON entity = id
WHERE generation = ? AND shard = ? AND key = ? AND (expires IS NULL OR expires > ?) AND name IN ({})
"""
_SET_STATE = "INSERT OR REPLACE INTO shard VALUES (?, ?, ?, ?)"
_SET_ENTITY = """
INSERT INTO entity (generation, shard, key, expires) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET expires = excluded.expires RETURNING id
"""
_THERE = "SELECT 1 FROM entity WHERE generation = ? AND shard = ? AND key = ?"
_EXPIRED = "SELECT id FROM entity WHERE expires <= ? LIMIT ?"
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


class SqliteOnlineStore:
    """An OnlineStore in the SQLite file `path`, made with its folder where there is none.

    Config: `path` (`.featurestore/online.db`); `timeout` of waiting for another writer (`30s`). `clock` gives
    UTC microseconds, by which entities expire.
    """

    def __init__(self, config: Mapping[str, Any], clock: Callable[[], int] = instants.now) -> None:
        self._path = Path(config.get("path", ".featurestore/online.db"))
        self._timeout = instants.parse_duration(config.get("timeout", "30s")) / instants.SECOND
        self._clock = clock
        self._idle: deque[sqlite3.Connection] = deque()

    def read(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        """Return each read's fields, in order, None where absent, all of one moment."""
        with self._transaction("BEGIN") as connection:
            return self._fields(connection, generation, reads)

    async def read_async(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        """The same in a thread, without blocking the event loop."""
        return await asyncio.to_thread(self.read, generation, reads)

    def read_many(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        """Return what `read` would for each (generation, reads), all of one moment."""
        with self._transaction("BEGIN") as connection:
            return [self._fields(connection, generation, reads) for generation, reads in requests]

    async def read_many_async(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        """The same in a thread, without blocking the event loop."""
        return await asyncio.to_thread(self.read_many, requests)

    def shards(self, generation: str, shards: Sequence[int]) -> list[ShardState]:
        """Return the states of shards, in order."""
        with self._transaction("BEGIN") as connection:
            return [_state(connection, generation, shard) for shard in shards]

    def read_for_write(
        self, generation: str, reads: Mapping[int, Sequence[EntityRead]]
    ) -> dict[int, tuple[ShardState, list[list[bytes | None]]]]:
        """Return per shard its state and the fields, all of one moment."""
        everything = instants.ALWAYS  # expired or not: what was not deleted is whole
        with self._transaction("BEGIN") as connection:
            return {
                shard: (
                    _state(connection, generation, shard),
                    self._fields(connection, generation, entities, everything),
                )
                for shard, entities in reads.items()
            }

    def write(
        self,
        generation: str,
        writes: Sequence[tuple[int, bytes, bytes, bytes, Sequence[EntityWrite]]],
    ) -> list[bool]:
        """Write shards, each (shard, expected revision, new revision, positions, entities), atomically.

        A shard whose revision is no longer the expected one, or one of whose entities was deleted since it
        was read, is left alone: False in its place.
        """
        written = []
        now = self._clock()
        newest = [e.newest for write in writes for e in write[4] if e.newest is not None]
        with self._transaction("BEGIN IMMEDIATE") as connection:
            _remove(connection, connection.execute(_EXPIRED, (min([now, *newest]), _PURGED)).fetchall())
            for shard, expected, revision, positions, entities in writes:
                current = _state(connection, generation, shard).revision == expected and all(
                    connection.execute(_THERE, (generation, shard, entity.key)).fetchone()
                    for entity in entities
                    if entity.existed and entity.expire_ms is not None
                )
                if current:
                    for entity in entities:
                        _write_entity(connection, generation, shard, entity, now)
                    connection.execute(_SET_STATE, (generation, shard, revision, positions))
                written.append(current)
        return written

    def drop(self, generation: str) -> None:
        """Delete all that the generation holds, in steps that let other writers in between."""
        some = "SELECT id FROM entity WHERE generation = ? LIMIT 1000"
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute("DELETE FROM shard WHERE generation = ?", (generation,))
        found: list[tuple[int]] = [(0,)]
        while found:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                found = connection.execute(some, (generation,)).fetchall()
                _remove(connection, found)

    def statistics(self, generation: str) -> dict[str, int]:
        """Return `entities` and `bytes` of the generation: what its keys, field names and values hold."""
        alive = "generation = ? AND (expires IS NULL OR expires > ?)"
        size = "coalesce(sum(length(name) + length(value)), 0)"
        which = (generation, self._clock())
        with self._transaction("BEGIN") as connection:
            keys = connection.execute(
                f"SELECT count(*), coalesce(sum(length(key)), 0) FROM entity WHERE {alive}", which
            ).fetchone()
            fields = connection.execute(
                f"SELECT {size} FROM entity JOIN field ON entity = id WHERE {alive}", which
            ).fetchone()
        return {"entities": keys[0], "bytes": keys[1] + fields[0]}

    def ping(self) -> None:
        """Raise StoreUnavailable or OperatorError unless the file can be written."""
        with self._transaction("BEGIN IMMEDIATE"):
            pass

    def close(self) -> None:
        """Close the connections that no call is using."""
        while self._idle:
            self._idle.pop().close()

    def _fields(
        self,
        connection: sqlite3.Connection,
        generation: str,
        reads: Sequence[EntityRead],
        now: int | None = None,
    ) -> list[list[bytes | None]]:
        now = self._clock() if now is None else now
        answers: list[list[bytes | None]] = []
        for read in reads:
            names = read.fields
            found: dict[bytes, bytes] = {}
            for first in range(0, len(names), 500):  # SQLite limits the parameters of a statement
                part = names[first : first + 500]
                query = _FIELDS.format(",".join("?" * len(part)))
                found.update(
                    connection.execute(query, (generation, read.shard, read.key, now, *part)).fetchall()
                )
            answers.append([found.get(name) for name in names])
        return answers

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Yield a connection of one's own within a transaction; any error takes all of it back."""
        try:
            connection = self._take()
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._error(error) from error
        self._idle.append(connection)

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OperatorError(f"The folder cannot be made: {error}.", where=str(self._path)) from error
        connection = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        try:
            _use_log(connection, time.monotonic() + self._timeout)
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(_SCHEMA)
            elif version != _VERSION:
                raise OperatorError(
                    f"The file has layout {version}; this release knows layout {_VERSION}.",
                    where=str(self._path),
                    hint="Use the release that wrote it, or another path and `featurestore materialize`.",
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _error(self, error: sqlite3.Error) -> OperatorError:
        where = str(self._path)
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY:
            return StoreUnavailable(
                f"Another process has been writing for {self._timeout:g} s.", where=where, hint="Try again."
            )
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _NO_ROOM:
            return StoreUnavailable(
                f"The disk is full, or fails: {error}.",
                where=where,
                hint="Free space; what was written is kept, and streams go on by themselves.",
            )
        return OperatorError(
            f"SQLite refused: {error}.", where=where, hint="Check the disk, the path and its permissions."
        )


def _use_log(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch the file to a write-ahead log, for which SQLite does not wait by itself."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _state(connection: sqlite3.Connection, generation: str, shard: int) -> ShardState:
    found = connection.execute(_STATE, (generation, shard)).fetchone()
    return ShardState(*found) if found else ShardState(b"", b"")


def _write_entity(
    connection: sqlite3.Connection, generation: str, shard: int, entity: EntityWrite, now: int
) -> None:
    which = (generation, shard, entity.key)
    if not entity.existed:
        stale = "SELECT id FROM entity WHERE generation = ? AND shard = ? AND key = ? AND expires <= ?"
        _remove(connection, connection.execute(stale, (*which, now)).fetchall())
    expires = None if entity.expire_ms is None else now + min(entity.expire_ms, _FAR) * 1000
    number = connection.execute(_SET_ENTITY, (*which, expires)).fetchone()[0]
    sets = [(number, name, value) for name, value in entity.fields.items() if value is not None]
    deletes = [(number, name) for name, value in entity.fields.items() if value is None]
    connection.executemany("INSERT OR REPLACE INTO field VALUES (?, ?, ?)", sets)
    connection.executemany("DELETE FROM field WHERE entity = ? AND name = ?", deletes)
    if not sets:
        connection.execute(
            "DELETE FROM entity WHERE id = ? AND NOT EXISTS (SELECT 1 FROM field WHERE entity = ?)",
            (number, number),
        )


def _remove(connection: sqlite3.Connection, entities: Sequence[tuple[int]]) -> None:
    connection.executemany("DELETE FROM field WHERE entity = ?", entities)
    connection.executemany("DELETE FROM entity WHERE id = ?", entities)
