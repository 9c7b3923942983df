"""One Delta table: rows and positions appended in one commit on exactly the version that was read.

Delta's application transactions hold the positions, one per partition. deltalake never compares
them: what makes an append exact is that it commits on its snapshot's version or not at all
(`max_commit_retries=0`), the first commit of a table included.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError, SchemaMismatchError, TableNotFoundError
from deltalake.transaction import create_table_with_add_actions

from featurestore import tables
from featurestore.contracts import Forgotten, Snapshot
from featurestore.errors import OperatorError, StoreUnavailable
from featurestore.instants import HOUR
from featurestore.plans import EVENT_TIME, INGEST_TIME, SEQUENCE, SHARD
from featurestore.types import Field
from featurestore_connectors.delta import compact as compaction
from featurestore_connectors.delta import log, retention, rewrite, scan
from featurestore_connectors.delta.casts import cast_back, to_delta, to_frame, to_table
from featurestore_connectors.delta.storage import Location, flush, is_full

_PRUNED_BY = (EVENT_TIME, INGEST_TIME, SHARD, SEQUENCE, rewrite.LETTER_TIME)
_CONFIGURATION = {
    "delta.checkpointInterval": "100",
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
"""The log stays short: the 10,000 commits of a stream's week slow each append tenfold, compacted or not."""


_MANY = 65_536
"""Rows from which on the file is written here: in half of the time that deltalake takes."""


def _check_columns(table: deltalake.DeltaTable, schema: pa.Schema) -> None:
    """Raise SchemaMismatchError where a table has other columns: deltalake does not look at files."""
    known, given = table.schema().fields, deltalake.Schema.from_arrow(schema).fields
    if {(f.name, str(f.type)) for f in known} != {(f.name, str(f.type)) for f in given}:
        raise SchemaMismatchError(f"it has {[f.name for f in known]}, the rows {[f.name for f in given]}")


def _configuration(columns: Sequence[str]) -> dict[str, str]:
    pruned = [name for name in _PRUNED_BY if name in columns] or columns[:1]
    return {**_CONFIGURATION, "delta.dataSkippingStatsColumns": ",".join(pruned)}


class _Version:
    """One version of a table. The deltalake object moves on with a commit; then it is opened anew."""

    def __init__(self, location: Location, number: int, opened: deltalake.DeltaTable) -> None:
        self.number = number
        self._location = location
        self._opened: deltalake.DeltaTable | None = opened
        self._adds: pl.DataFrame | None = None
        self._lock = threading.RLock()

    def _table(self) -> deltalake.DeltaTable:
        if self._opened is None:
            self._opened = deltalake.DeltaTable(
                self._location.uri, version=self.number, storage_options=self._location.options or None
            )
        return self._opened

    def transaction(self, name: str) -> int | None:
        with self._lock:
            number: int | None = self._table().transaction_version(name)
            return number

    def schema(self) -> pa.Schema:
        with self._lock:
            return pa.schema(self._table().schema())

    def adds(self) -> pl.DataFrame:
        """Return a row per file: path, size_bytes, num_records, `min.` and `max.` of the pruned columns."""
        with self._lock:
            if self._adds is None:
                adds = pl.from_arrow(pa.table(self._table().get_add_actions(flatten=True)))
                assert isinstance(adds, pl.DataFrame)
                self._adds = adds
            return self._adds

    def take(self) -> deltalake.DeltaTable:
        """Return the deltalake object for a commit, which changes it; this version opens another."""
        with self._lock:
            table = self._table()
            self._opened = None
            return table


class DeltaTable:
    """Rows of one feature set, of landing or of dead letters, with the positions applied (DESIGN 7).

    Snapshots stay readable until `vacuum` deletes the files that compaction replaced.
    """

    def __init__(self, location: Location, *, name: str = "", memory: str = "1GB") -> None:
        self.name = name
        self.location = location
        self._memory = memory
        self._known: tuple[int, Mapping[str, int]] | None = None

    def snapshot(self) -> Snapshot | None:
        """Return the newest version; None before the first commit."""
        try:
            opened = deltalake.DeltaTable(self.location.uri, storage_options=self.location.options or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise self._fault("cannot be opened", error) from error
        return Snapshot(opened.version(), _Version(self.location, opened.version(), opened))

    def position(self, snapshot: Snapshot | None, partition: str) -> int:
        """Return the sequence after the last one applied of `partition`; 0 before the first."""
        if snapshot is None:
            return 0
        try:
            return self._version(snapshot).transaction(partition) or 0
        except (DeltaError, OSError) as error:
            raise self._fault("cannot be read", error) from error

    def positions(self, snapshot: Snapshot | None) -> dict[str, int]:
        """Return the positions of all partitions in the version, those without rows included."""
        found = self._transactions(snapshot)
        return {name: end for name, end in found.items() if not name.startswith(tables.FORGOTTEN)}

    def forgotten(self, snapshot: Snapshot | None) -> Forgotten | None:
        """Return what `forget` took until the version; None where it took nothing."""
        found = {
            name.removeprefix(tables.FORGOTTEN): number
            for name, number in self._transactions(snapshot).items()
            if name.startswith(tables.FORGOTTEN)
        }
        before = found.pop("", None)
        return None if before is None else Forgotten(before, found)

    def _transactions(self, snapshot: Snapshot | None) -> dict[str, int]:
        if snapshot is None:
            return {}
        try:
            found = log.read_positions(self.location.filesystem(), snapshot.version, self._known)
        except (OSError, ValueError) as error:
            raise self._fault(f"has no readable log of version {snapshot.version}", error) from error
        self._known = (snapshot.version, found)
        return dict(found)

    def append(
        self, snapshot: Snapshot | None, rows: pa.Table | pl.DataFrame, positions: Mapping[str, int]
    ) -> Snapshot | None:
        """Commit rows (possibly none) and positions on exactly `snapshot`; None when another came first.

        Columns must be those of the first commit. What was returned survives a power failure. Raises
        StoreUnavailable when the disk is full, OperatorError when the store refuses; whether a commit that
        failed so was made, positions tell.
        """
        properties = deltalake.CommitProperties(
            app_transactions=[deltalake.Transaction(name, number) for name, number in positions.items()],
            max_commit_retries=0,
        )
        try:
            if len(rows) >= _MANY:
                committed = self._add(snapshot, *to_frame(rows), properties)
            else:
                committed = self._write(snapshot, to_delta(to_table(rows)), properties)
        except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
            newest = self.snapshot()
            if newest is not None and newest.version > (-1 if snapshot is None else snapshot.version):
                return None
            if isinstance(error, SchemaMismatchError):
                raise OperatorError(
                    f"The offline table '{self.name}' has other columns than the rows: {error}.",
                    where=self.location.uri,
                    hint="A table's columns never change; move this folder away if it is not this store's.",
                ) from error
            raise self._fault("cannot be appended to", error) from error
        version: int = committed.version()
        try:
            self.flush(version)
        except OSError as error:
            raise self._fault(f"was committed to (version {version}), not yet durably", error) from error
        return Snapshot(version, _Version(self.location, version, committed))

    def _add(
        self,
        snapshot: Snapshot | None,
        frame: pl.DataFrame,
        schema: pa.Schema,
        properties: deltalake.CommitProperties,
    ) -> deltalake.DeltaTable:
        """Write a file of rows and commit it. One whose commit is lost is deleted by `vacuum`."""
        added = rewrite.write_frame(self, f"appended/{secrets.token_hex(16)}.parquet", frame)
        made = 0
        if snapshot is None:
            create_table_with_add_actions(
                self.location.uri,
                deltalake.Schema.from_arrow(schema),
                [added],
                mode="error",
                configuration=_configuration(schema.names),
                storage_options=self.location.options or None,
                commit_properties=properties,
            )
        else:
            table = self._version(snapshot).take()
            _check_columns(table, schema)
            made = snapshot.version + 1  # the commit moves no deltalake object on
            table.create_write_transaction([added], "append", schema, commit_properties=properties)
        return self._opened(made)

    def _write(
        self, snapshot: Snapshot | None, rows: pa.Table, properties: deltalake.CommitProperties
    ) -> deltalake.DeltaTable:
        """Have deltalake write rows and commit them."""
        if snapshot is not None:
            table = self._version(snapshot).take()
            deltalake.write_deltalake(table, rows, mode="append", commit_properties=properties)
            return table
        deltalake.write_deltalake(
            self.location.uri,
            rows,
            mode="error",
            configuration=_configuration(rows.column_names),
            storage_options=self.location.options or None,
            commit_properties=properties,
        )
        return self._opened(0)

    def _opened(self, version: int) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(
            self.location.uri, version=version, storage_options=self.location.options or None
        )

    def flush(self, version: int) -> None:
        """Force a version's commit and the files that it added to the disk."""
        if self.location.is_local:
            actions = log.commit_actions(self.location.filesystem(), version)
            flush(
                self.location,
                [log.commit_path(version), *(a["add"]["path"] for a in actions if "add" in a)],
            )

    def files(self, snapshot: Snapshot) -> list[str]:
        """Return the paths (or URLs) of the Parquet files of the version."""
        return [f"{self.location.uri}/{path}" for path in self._version(snapshot).adds()["path"]]

    def rows(self, snapshot: Snapshot) -> int:
        """Return how many rows the version holds."""
        return int(self._version(snapshot).adds()["num_records"].sum())

    def ranges(self, snapshot: Snapshot, rows: int) -> list[tuple[int, int]]:
        """Return ranges of shards, half-open and in order, to read the version by, of some `rows` rows each.

        Files that were compacted are sorted by shard; others are read anew for every range, so these are
        larger, up to 16 million rows, where there are many of them.
        """
        return scan.ranges(self._version(snapshot).adds(), rows)

    def lazy(
        self,
        snapshot: Snapshot,
        columns: Sequence[str] | None = None,
        *,
        shards: tuple[int, int] | None = None,
        cut: Mapping[str, int] | None = None,
        since: Mapping[str, int] | None = None,
        event_times: tuple[int, int] | None = None,
        schema: Sequence[Field] = (),
    ) -> pl.LazyFrame:
        """Return a Polars query of the rows that `scan` would yield."""
        version = self._version(snapshot)
        paths = scan.prune(version.adds(), shards, since, event_times)
        frame = (
            pl.scan_parquet(
                [f"{self.location.uri}/{path}" for path in paths],
                storage_options=self.location.options or None,
                hive_partitioning=False,
                glob=False,
            )
            if paths
            else scan.empty(version.schema())
        )
        return scan.select(frame, columns, shards, cut, since, event_times, schema)

    def scan(
        self,
        snapshot: Snapshot,
        columns: Sequence[str] | None = None,
        *,
        shards: tuple[int, int] | None = None,
        cut: Mapping[str, int] | None = None,
        since: Mapping[str, int] | None = None,
        event_times: tuple[int, int] | None = None,
        schema: Sequence[Field] = (),
        batch_rows: int = 131_072,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the version's rows in bounded memory, file by file, each in its stored order.

        `columns`: all of them unless named. `shards`: __shard in [a, b). `cut`: each partition's
        __sequence below its number; a partition that the cut does not name has no rows in it. `since`:
        only rows of these partitions, __sequence at or above. `event_times`: __event_time in [a, b),
        microseconds. `schema` restores declared types that Delta lacks. Files that cannot hold such rows
        are not opened. Raises OperatorError when a file is gone (vacuumed) or unreadable.
        """
        query = self.lazy(
            snapshot, columns, shards=shards, cut=cut, since=since, event_times=event_times, schema=schema
        )
        try:
            for frame in query.collect_batches(chunk_size=batch_rows, maintain_order=True):
                table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
                yield from cast_back(table, schema).to_batches()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._fault(f"cannot be read at version {snapshot.version}", error) from error

    def compact(self, now: int | None = None) -> dict[str, int]:
        """Rewrite closed days into files by month and bucket, sorted by entity and time; return counts.

        `files_read`, `files_written`, `rows`, and `abandoned` (1 when another compaction came first). Rows
        appended meanwhile stay; earlier versions stay readable until `vacuum`.
        """
        try:
            return compaction.run(self, now, self._memory)
        except (DeltaError, pl.exceptions.PolarsError, pa.ArrowException, duckdb.Error, OSError) as error:
            raise self._fault("cannot be compacted", error) from error

    def forget(self, before: int) -> dict[str, int]:
        """Delete rows that became known before the UTC day of `before`; return counts.

        `files` that were replaced, `rows` deleted, and `abandoned` (1 when a compaction came first). The time
        is `__ingest_time`, of dead letters `ingest_time`. Positions stay; `forgotten` tells what went. The
        bytes leave the disk with `vacuum`.
        """
        try:
            return retention.run(self, before)
        except (DeltaError, pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
            raise self._fault("cannot be rid of old rows", error) from error

    def vacuum(self, older_than: int) -> int:
        """Delete files that no version needs since `older_than` microseconds; return how many.

        Rounded up to whole hours. Snapshots from before then can no longer be read, and a write that
        takes longer than `older_than` would lose its files: leave it at a day or more. The log loses what is
        older than a day, and in checkpoints.
        """
        try:
            table = deltalake.DeltaTable(self.location.uri, storage_options=self.location.options or None)
            if _CONFIGURATION.items() - table.metadata().configuration.items():  # by an earlier release
                table.alter.set_table_properties(_CONFIGURATION)
            table.cleanup_metadata()
            hours = -(-older_than // HOUR)
            free = table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)
            present = self.location.filesystem().get_file_info(free)  # some are gone since an earlier run
            number = len([info for info in present if info.is_file])
            if number:  # each run is two commits
                table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)
            return number
        except TableNotFoundError:
            return 0
        except (DeltaError, OSError) as error:
            raise self._fault("cannot be vacuumed", error) from error

    def _version(self, snapshot: Snapshot) -> _Version:
        assert isinstance(snapshot.handle, _Version)
        return snapshot.handle

    def _fault(self, what: str, error: BaseException) -> OperatorError:
        reason = str(error).strip().splitlines()[0]
        message = f"The offline table '{self.name}' {what}: {reason}.".replace("..", ".")
        if is_full(error):
            return StoreUnavailable(
                message,
                where=self.location.uri,
                hint="The disk is full: free space. Streams go on by themselves; run again what else failed.",
            )
        return OperatorError(
            message,
            where=self.location.uri,
            hint="Check that the disk has room, the permissions and the storage options; then run again.",
        )
