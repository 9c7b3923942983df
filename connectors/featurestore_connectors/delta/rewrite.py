"""Files put in the place of others in one commit: what compaction and retention have in common.

The commit removes exactly the files that were read and adds the new ones. It is made on the newest version,
as a compare-and-set, if those files are all still in it: rows appended meanwhile are never touched, and of
two that rewrite the same files the second gives up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake._internal import RemoveAction
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction

from featurestore import instants
from featurestore.plans import EVENT_ID, EVENT_TIME, INGEST_TIME, ROW_HASH, SEQUENCE, SHARD

if TYPE_CHECKING:
    from featurestore_connectors.delta.table import DeltaTable

ROW_GROUP = 131_072
_APPENDED: dict[str, Any] = {"compression": "snappy", "row_group_size": ROW_GROUP}
_EXPANDS = 4  # bytes in memory for each in a file, roughly
_LEAST_ROWS = 8192
LETTER_TIME = "ingest_time"  # a dead letter's
_INSTANTS = (EVENT_TIME, INGEST_TIME, LETTER_TIME)
_STATISTICS = (*_INSTANTS, SHARD, SEQUENCE)


class NewFile:
    """A Parquet file being written, its statistics kept for the log."""

    def __init__(self, table: DeltaTable, path: str, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._files = table.location.filesystem()
        if table.location.is_local:
            self._files.create_dir(path.rpartition("/")[0])
        self._bounds: dict[str, tuple[Any, Any]] = {}
        self._writer = pq.ParquetWriter(
            path,
            schema,
            filesystem=self._files,
            compression="zstd",
            use_dictionary=[field.name for field in schema if _repeats(field)],
        )

    def add(self, part: pa.RecordBatch) -> None:
        """Write rows."""
        whole = part.num_rows <= 2 * ROW_GROUP  # a block of shards is a row group, though it be a bit larger
        self._writer.write_batch(part, row_group_size=part.num_rows if whole else ROW_GROUP)
        self.rows += part.num_rows
        for name in _STATISTICS:
            column = part[name] if name in part.schema.names else None
            if column is not None and _tells(name, pa.types.is_timestamp(column.type)):
                found = pc.min_max(column.cast(pa.int64())).as_py()
                low, high = self._bounds.get(name, (found["min"], found["max"]))
                self._bounds[name] = (_least(low, found["min"]), _most(high, found["max"]))

    def discard(self) -> None:
        """Delete the file."""
        self._writer.close()
        self._files.delete_file(self.path)

    def close(self) -> AddAction:
        """Return what adds the complete file to the table."""
        self._writer.close()
        return _added(self._files, self.path, self.rows, self._bounds, is_new=False)


def write_frame(table: DeltaTable, path: str, frame: pl.DataFrame) -> AddAction:
    """Write new rows, their columns side by side on all cores; return what adds the file to the table."""
    files = table.location.filesystem()
    if table.location.is_local:
        files.create_dir(path.rpartition("/")[0])
    try:
        if table.location.is_local:
            frame.write_parquet(f"{table.location.uri}/{path}", **_APPENDED)
        else:
            with files.open_output_stream(path) as stream:
                frame.write_parquet(stream, **_APPENDED)
    except BaseException:
        with suppress(OSError):
            files.delete_file(path)
        raise
    known = frame.select(
        pl.col(name).to_physical()
        for name in _STATISTICS
        if name in frame.columns and _tells(name, frame.schema[name] == pl.Datetime)
    )
    bounds = {column.name: (column.min(), column.max()) for column in known}
    return _added(files, path, frame.height, bounds, is_new=True)


def _added(
    files: pyarrow.fs.FileSystem,
    path: str,
    rows: int,
    bounds: Mapping[str, tuple[Any, Any]],
    *,
    is_new: bool,
) -> AddAction:
    """Return what adds a file; `is_new`: its rows were in no other one before."""
    ends = {
        end: {
            name: instants.format_instant(found[place]) if name in _INSTANTS else found[place]
            for name, found in bounds.items()
            if found[0] is not None
        }
        for place, end in enumerate(("minValues", "maxValues"))
    }
    stats = json.dumps({"numRecords": rows, **ends})
    size = files.get_file_info(path).size
    return AddAction(path, size, {}, time.time_ns() // 1_000_000, is_new, stats)


def _tells(name: str, is_instant: bool) -> bool:
    """Tell whether a column's bounds belong into the log; a feature of any type may have a letter's name."""
    return is_instant or name not in _INSTANTS


def _repeats(field: pa.Field) -> bool:
    """Tell whether a column's values may well occur again, so that a dictionary of them pays."""
    kind = field.type
    return not (
        pa.types.is_floating(kind)
        or pa.types.is_timestamp(kind)
        or field.name in (ROW_HASH, SEQUENCE, EVENT_ID)
    )


def _least(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else min(one, other)


def _most(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else max(one, other)


def read(table: DeltaTable, files: pl.DataFrame) -> pl.LazyFrame:
    """Return a query of all rows of these files (`path`)."""
    return pl.scan_parquet(
        [f"{table.location.uri}/{path}" for path in files["path"]],
        storage_options=table.location.options or None,
        hive_partitioning=False,
        glob=False,
    )


def parts(table: DeltaTable, files: pl.DataFrame, memory: int) -> Iterator[pl.LazyFrame]:
    """Yield queries that together have all rows of these files (`path`, `num_records`, `size_bytes`).

    What one gives takes some `memory` bytes at most.
    """
    width = _EXPANDS * int(files["size_bytes"].sum()) // max(1, int(files["num_records"].sum())) + 1
    most = max(_LEAST_ROWS, min(4 * ROW_GROUP, memory // width))
    small: list[int] = []
    rows = 0
    for number, count in enumerate(files["num_records"].to_list()):
        if count > most:
            whole = read(table, files[number : number + 1])
            for start in range(0, count, most):
                yield whole.slice(start, most if start + most < count else None)
        else:
            if rows + count > most:
                yield read(table, files[small])
                small, rows = [], 0
            small.append(number)
            rows += count
    if small:
        yield read(table, files[small])


def replace(
    table: DeltaTable,
    inputs: pl.DataFrame,
    added: list[AddAction],
    schema: pa.Schema,
    notes: Mapping[str, int] | None = None,
) -> bool:
    """Replace the inputs (`path`, `size_bytes`) by what was written; False when another has replaced them.

    `notes` are numbers by name to put in the log in the same commit; a higher one that is there stays.
    """
    when = time.time_ns() // 1_000_000
    removed = [
        RemoveAction(path, bool(notes), when, size, {})
        for path, size in inputs.select("path", "size_bytes").iter_rows()
    ]
    gone = set(inputs["path"])
    while True:
        newest = deltalake.DeltaTable(table.location.uri, storage_options=table.location.options or None)
        present = set(pa.table(newest.get_add_actions())["path"].to_pylist())
        if added and added[0].path in present:  # an earlier try whose answer was lost
            return True
        if not gone <= present:
            return False
        version = newest.version()
        numbers = {
            name: max(number, newest.transaction_version(name) or 0) for name, number in (notes or {}).items()
        }
        try:
            newest.create_write_transaction(
                [*added, *removed],
                "append",
                schema,
                commit_properties=deltalake.CommitProperties(
                    app_transactions=[deltalake.Transaction(*item) for item in numbers.items()],
                    max_commit_retries=0,
                ),
            )
        except CommitFailedError:
            latest = table.snapshot()
            if latest is None:
                raise TableNotFoundError(f"{table.location.uri} is gone") from None
            if latest.version == version:
                raise
            continue
        table.flush(version + 1)
        return True


def delete(files: pyarrow.fs.FileSystem, added: list[AddAction]) -> None:
    """Delete files that were written and are not to be added."""
    for action in added:
        files.delete_file(action.path)
