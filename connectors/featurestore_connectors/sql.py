"""A batch source of a SQL query, by SQLAlchemy (see `featurestore.contracts.BatchSource`).

The query runs once for each `inputs()`, with a server-side cursor where the database has one. Its rows go
to a temporary file as they come, and into the digest: so the digest is of exactly the values that `read`
yields, whatever happens to the tables in between, and neither ever holds more than a batch in memory. Rows
are numbered as the query orders them: without an ORDER BY that decides between all rows the database may
order them anew, which looks like a source that changed.

The result is one input, named by the database and the query. The digest is the xxh3-128 of the column names
and of each row in MessagePack, so 1 and 1.0 and "1" differ.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa
import xxhash
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from featurestore.contracts import BatchInput
from featurestore.errors import MissingExtra, OperatorError, SpecError, StoreUnavailable

_CHUNK = 10_000


class SqlSource:
    """The rows of a query."""

    def __init__(self, spec: dict[str, Any], root: Path) -> None:
        """Take the half as written; a relative SQLite file begins at `root`."""
        self.query: str = spec["query"]
        self.url = _url(spec["url"], Path(root))
        digest = xxhash.xxh3_64_hexdigest(self.query.encode())
        self.name = f"{self.url.render_as_string(hide_password=True)}#{digest}"
        directory = tempfile.mkdtemp(prefix="featurestore-")
        self.close = weakref.finalize(self, shutil.rmtree, directory, True)
        """Deletes the temporary file; so does the end of this source."""
        self._spool = Path(directory) / "rows"
        self._item: BatchInput | None = None

    def inputs(self) -> list[BatchInput]:
        """Run the query and return its result as one input."""
        self._item = None
        with self._spool.open("wb") as spool:
            digest, rows = self._run(spool)
        self._item = BatchInput(self.name, digest, rows)
        return [self._item]

    def read(
        self, item: BatchInput, skip: int, batch_rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the result's rows from number `skip` on; only `columns`, where given."""
        if self._item != item and self.inputs()[0].digest != item.digest:
            raise OperatorError(f"The result of {item.name} changed.", hint="Start the ingest again.")
        with self._spool.open("rb") as spool:
            while head := spool.read(8):
                batch = pa.ipc.open_stream(spool.read(int.from_bytes(head, "little"))).read_next_batch()
                if columns is not None:
                    batch = batch.select([name for name in batch.schema.names if name in columns])
                for offset in range(min(skip, batch.num_rows), batch.num_rows, batch_rows):
                    yield batch.slice(offset, batch_rows)
                skip -= min(skip, batch.num_rows)

    def _run(self, spool: IO[bytes]) -> tuple[str, int]:
        digest = xxhash.xxh3_128()
        encode = msgspec.msgpack.Encoder(enc_hook=str).encode
        rows = 0
        try:
            engine = create_engine(self.url)
            with engine.connect() as connection:
                options = {"stream_results": True, "yield_per": _CHUNK}
                result = connection.execution_options(**options).execute(text(self.query))
                names = _names(list(result.keys()))
                digest.update(encode(names))
                for chunk in result.partitions(_CHUNK):
                    try:
                        digest.update(b"".join([encode(tuple(row)) for row in chunk]))
                    except (OverflowError, TypeError) as error:
                        raise _unreadable(None, error) from error
                    _write(spool, names, chunk)
                    rows += len(chunk)
            engine.dispose()
        except ModuleNotFoundError as error:
            raise MissingExtra(f"{self.url.drivername} ({error.name})", "postgres") from error
        except OperationalError as error:
            if self.url.get_backend_name() == "sqlite" and error.statement:
                raise SpecError(f"The query failed: {error.orig}") from error
            raise StoreUnavailable(f"The database did not answer the query: {error.orig}") from error
        except SQLAlchemyError as error:
            raise SpecError(
                f"The query failed: {error}", hint="Run it by hand against the database."
            ) from error
        if not rows:
            _write(spool, names, [])
        return digest.hexdigest(), rows


def _url(written: str, root: Path) -> URL:
    try:
        url = make_url(written)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise SpecError(f"url: {error}", hint="Write it as postgresql+psycopg://user@host/db.") from None
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        url = url.set(database=str(root / url.database))
    return url


def _names(names: list[str]) -> list[str]:
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise SpecError(
            f"The query returns {sorted(repeated)} more than once.", hint="Give each column one name."
        )
    return names


def _write(spool: IO[bytes], names: list[str], rows: Sequence[Any]) -> None:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = [_array(name, list(values)) for name, values in zip(names, columns, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue()
    spool.write(data.size.to_bytes(8, "little"))
    spool.write(data)


def _array(name: str, values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values}
    if kinds & {uuid.UUID, memoryview}:
        values = [_plain(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise _unreadable(name, error) from error


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _unreadable(name: str | None, error: Exception) -> SpecError:
    which = f"column '{name}'" if name else "a column"
    return SpecError(
        f"In the query's result, {which} holds values that are of no one type: {error}.",
        hint="CAST it in the query.",
    )
