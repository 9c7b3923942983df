"""The registry's database: opened and checked once, read and written in whole transactions.

Writers queue: each takes the database's write lock in SQLite (`BEGIN IMMEDIATE`), the row of
`registry_version` in Postgres, before it reads anything. So what a write reads is what it changes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from featurestore.errors import MissingExtra, OperatorError, SpecError, StoreUnavailable
from featurestore.registry import schema

_BUSY_SECONDS = 30
_CREATION_TRIES = 5


class Database:
    """An engine on the registry's URL, its tables created where they do not exist.

    Raises SpecError on a URL that cannot be understood, MissingExtra without the driver,
    StoreUnavailable when the server does not answer, OperatorError when a newer release wrote it.
    """

    def __init__(self, url: str, root: Path | None = None) -> None:
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise SpecError(
                f"'{url}' is no database URL.",
                hint="Write `registry: sqlite:///.featurestore/registry.db` or postgresql://user@host/database.",
            ) from None
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            parsed = _sqlite_file(parsed, root)
        self.where = parsed.render_as_string(hide_password=True)
        try:
            self._engine = sa.create_engine(parsed, **_pool(parsed))
        except ModuleNotFoundError as error:
            raise MissingExtra(f"The registry {self.where} ({error.name})", "postgres") from error
        except sa.exc.NoSuchModuleError as error:
            raise SpecError(
                f"The registry cannot be kept in '{parsed.drivername}'.",
                hint="Use a sqlite:/// or postgresql:// URL.",
            ) from error
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
            with self._guarded():
                self._write_ahead()
        self._open()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection whose reads are of one moment."""
        with self._guarded(), self._connect("REPEATABLE READ") as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection that alone writes; all of it is committed at the end, or nothing."""
        with self._guarded(), self._connect("READ COMMITTED", writes=True) as connection, connection.begin():
            connection.execute(sa.select(schema.registry_version).with_for_update()).all()
            yield connection

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()

    def _connect(self, isolation: str, *, writes: bool = False) -> sa.Connection:
        options: dict[str, Any] = {"writes": writes}
        if self._engine.dialect.name != "sqlite":
            options["isolation_level"] = isolation
        return self._engine.connect().execution_options(**options)

    def _open(self) -> None:
        found = 0
        for attempt in range(_CREATION_TRIES):
            try:
                found = self._create()
                break
            except (sa.exc.IntegrityError, sa.exc.ProgrammingError) as error:
                # In Postgres two that create the same table at once collide; the second then finds it.
                if attempt == _CREATION_TRIES - 1:
                    raise self._fault(error) from error
        if found > schema.VERSION:
            raise OperatorError(
                f"The registry has format {found}, this release knows {schema.VERSION}.",
                where=self.where,
                hint="Upgrade: pip install --upgrade featurestore",
            )

    def _write_ahead(self) -> None:
        """Set SQLite's WAL mode, which the file keeps. SQLite does not wait for others here, so we do."""
        deadline = time.monotonic() + _BUSY_SECONDS
        with self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            while True:
                try:
                    driver.execute("PRAGMA journal_mode = WAL").close()
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise sa.exc.OperationalError("PRAGMA journal_mode = WAL", None, error) from error
                    time.sleep(0.01)

    def _create(self) -> int:
        """Create what is missing of an empty or older database; return the format's version."""
        with self._guarded(), self._connect("READ COMMITTED", writes=True) as connection, connection.begin():
            if sa.inspect(connection).has_table(schema.registry_version.name):
                found = connection.execute(sa.select(schema.registry_version.c.version)).scalar()
                if found is not None and int(found) >= schema.VERSION:
                    return int(found)
            schema.metadata.create_all(connection)  # versions so far differ in whole tables
            connection.execute(sa.delete(schema.registry_version))
            connection.execute(sa.insert(schema.registry_version).values(version=schema.VERSION))
            return schema.VERSION

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.DatabaseError) as error:
            if isinstance(error, (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError)):
                raise
            raise self._fault(error) from error

    def _fault(self, error: sa.exc.DBAPIError) -> OperatorError:
        reason = str(error.orig).strip().splitlines()[0]
        if isinstance(error, sa.exc.OperationalError) and "no such table" not in reason:
            return StoreUnavailable(
                f"The registry does not answer: {reason}.",
                where=self.where,
                hint="Check `registry:` in featurestore.yaml, the server, the file's permissions, the disk.",
            )
        return OperatorError(
            f"The registry refused: {reason}.",
            where=self.where,
            hint="Check that the database is still there, and that the disk has room.",
        )


def _pool(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {"pool_pre_ping": True}
    # A file is opened for each transaction (0.2 ms), so that forks and threads never share a connection.
    return {} if url.database in (None, "", ":memory:") else {"poolclass": sa.NullPool}


def _sqlite_file(url: sa.URL, root: Path | None) -> sa.URL:
    if url.database in (None, "", ":memory:"):
        return url
    path = ((root or Path.cwd()) / Path(str(url.database)).expanduser()).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"The registry's folder cannot be made: {error.strerror}.",
            where=str(path.parent),
            hint="Check `registry:` in featurestore.yaml and the folder's permissions.",
        ) from error
    return url.set(database=str(path))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says, not by the driver
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
