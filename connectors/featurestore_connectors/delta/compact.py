"""Compaction: rows of closed days into files by month and bucket of shards, sorted by shard, entity and time.

A run sorts rows once, out of core, and writes each month's into `compacted/<month>/<run>-<bucket>.parquet`.
Row groups begin where a shard does, at a multiple of a power of two, so that a reader of some of the shards
decodes what it needs and no more.
The one commit that follows removes exactly the files that were read and adds the new ones. It is made on
the newest version, as a compare-and-set, if those files are all still in it: rows appended meanwhile
are never touched, and of two compactions the second gives up.

New rows of a month with earlier runs absorb a run that has at most twice their rows, then the next: a
month has few runs (logarithmic in its rows) and a row is rewritten as seldom (size-tiered merging, as in
LSM trees).
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction

from featurestore import instants
from featurestore.errors import OperatorError
from featurestore.keys import SHARDS
from featurestore.plans import (
    EVENT_TIME,
    INGEST_TIME,
    KEY,
    ORDER,
    PARTITION,
    ROW_HASH,
    SEQUENCE,
    SHARD,
)
from featurestore_connectors.delta import rewrite, storage
from featurestore_connectors.delta.scan import COMPACTED

if TYPE_CHECKING:
    from featurestore_connectors.delta.table import DeltaTable

ROWS_PER_FILE = 1_000_000
_RUN = re.compile(COMPACTED + r"(\d{4})-(\d{2})/([0-9a-f]+)-\d+\.parquet$")
_MONTH, _BLOCK = "__month", "__block"
_OPEN = 999_999  # the month of rows that stay as they are, sorted last
_SORTED_BY = (SHARD, KEY, EVENT_TIME, ORDER, INGEST_TIME, ROW_HASH, PARTITION, SEQUENCE)


@dataclass(frozen=True)
class _Job:
    """The files to replace and, per month, into how many files and how many row groups its rows go."""

    inputs: pl.DataFrame
    buckets: dict[int, int]
    blocks: dict[int, int]
    closed: int  # instants before it are rewritten


def run(table: DeltaTable, now: int | None, memory: str) -> dict[str, int]:
    """Compact the newest version; return `files_read`, `files_written`, `rows` and `abandoned`."""
    counts = {"files_read": 0, "files_written": 0, "rows": 0, "abandoned": 0}
    snapshot = table.snapshot()
    if snapshot is None:
        return counts
    schema: pa.Schema = snapshot.handle.schema()
    closed = (instants.now() if now is None else now) // instants.DAY * instants.DAY
    job = _plan(table, snapshot.handle.adds(), schema, closed)
    if job is None:
        return counts
    files = table.location.filesystem()
    added: list[AddAction] = []
    try:
        for action in _write(table, job, schema, memory):
            added.append(action)
        rows = sum(json.loads(action.stats)["numRecords"] for action in added)
        if rows != job.inputs["num_records"].sum():
            raise OperatorError(
                f"Compaction of '{table.name}' read {job.inputs['num_records'].sum()} rows and wrote {rows}; "
                "nothing was changed.",
                where=table.location.uri,
                hint="A data file is damaged: restore it, or restore the table's folder from a backup.",
            )
        storage.flush(table.location, [action.path for action in added])
    except BaseException:
        rewrite.delete(files, added)
        raise
    if not rewrite.replace(table, job.inputs, added, schema):
        rewrite.delete(files, added)
        return counts | {"abandoned": 1}
    return counts | {"files_read": job.inputs.height, "files_written": len(added), "rows": rows}


def _plan(table: DeltaTable, adds: pl.DataFrame, schema: pa.Schema, closed: int) -> _Job | None:
    runs = adds["path"].str.extract_groups(_RUN.pattern)
    adds = adds.with_columns(
        pl.Series(_MONTH, runs.struct[0] + runs.struct[1]).cast(pl.Int32), pl.Series("run", runs.struct[2])
    )
    fresh = adds.filter(pl.col("run").is_null())
    if EVENT_TIME not in schema.names:
        if fresh.height < 2:
            return None
        months = {0: int(fresh["num_records"].sum())}
    else:
        first = f"min.{EVENT_TIME}"
        if first in fresh.columns:
            fresh = fresh.filter((pl.col(first).cast(pl.Int64) < closed).fill_null(True))
        if fresh.is_empty():
            return None
        counted = rewrite.read(table, fresh).select(_month(schema, closed)).group_by(_MONTH).len().collect()
        months = dict(counted.iter_rows())
        months.pop(_OPEN, None)
    if not months:
        return None
    inputs, buckets, blocks = [fresh], {_OPEN: 1}, {_OPEN: 1}
    for month, rows in months.items():
        older = adds.filter(pl.col(_MONTH) == month).group_by("run").agg(pl.col("num_records").sum())
        absorbed = []
        for name, size in older.sort("num_records", "run").iter_rows():
            if size > 2 * rows:
                break
            absorbed.append(name)
            rows += size
        inputs.append(adds.filter(pl.col(_MONTH) == month, pl.col("run").is_in(absorbed)))
        known = rows if SHARD in schema.names else 1
        buckets[month] = _power_of_two(-(-known // ROWS_PER_FILE))
        blocks[month] = max(buckets[month], _power_of_two(-(-known // rewrite.ROW_GROUP)))
    return _Job(pl.concat(inputs), buckets, blocks, closed)


def _power_of_two(least: int) -> int:
    return min(SHARDS, 1 << (least - 1).bit_length())


def _month(schema: pa.Schema, closed: int) -> pl.Expr:
    """Return the column of year * 100 + month, `_OPEN` from `closed` on, 0 in a table without event time."""
    if EVENT_TIME not in schema.names:
        return pl.lit(0, pl.Int32).alias(_MONTH)
    when = pl.col(EVENT_TIME)
    number = when.dt.year() * 100 + when.dt.month().cast(pl.Int32)
    is_open = when >= pl.lit(closed).cast(pl.Datetime("us", "UTC"))
    return pl.when(is_open).then(pl.lit(_OPEN, pl.Int32)).otherwise(number.fill_null(0)).alias(_MONTH)


def _sorted(table: DeltaTable, job: _Job, schema: pa.Schema, memory: str) -> Iterator[pa.RecordBatch]:
    """Yield the inputs' rows by month, shard, entity and time; DuckDB spills what exceeds `memory`."""
    shard = pl.col(SHARD).cast(pl.Int32) if SHARD in schema.names else pl.lit(0, pl.Int32)
    blocks = pl.col(_MONTH).replace_strict(list(job.blocks), list(job.blocks.values()), return_dtype=pl.Int32)
    rows = rewrite.read(table, job.inputs).select(schema.names)
    rows = rows.with_columns(_month(schema, job.closed)).with_columns(
        (shard * blocks // SHARDS).alias(_BLOCK)
    )
    full = schema.append(pa.field(_MONTH, pa.int32())).append(pa.field(_BLOCK, pa.int32()))

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in rows.collect_batches(chunk_size=rewrite.ROW_GROUP, maintain_order=False):
            yield from frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(full).to_batches()

    order = ", ".join(f'"{name}"' for name in (_MONTH, _BLOCK, *_SORTED_BY) if name in full.names)
    with (
        tempfile.TemporaryDirectory(prefix="featurestore-compact-") as spilled,
        duckdb.connect(
            ":memory:",
            config={
                "memory_limit": memory,
                "temp_directory": spilled,
                "preserve_insertion_order": False,
                "threads": 2,  # each needs memory of its own; the sort is not what takes the time
            },
        ) as connection,
    ):
        source = connection.from_arrow(pa.RecordBatchReader.from_batches(full, batches()))
        for batch in source.order(order).to_arrow_reader(rewrite.ROW_GROUP):
            yield from pa.Table.from_batches([batch]).cast(full).to_batches()


def _write(table: DeltaTable, job: _Job, schema: pa.Schema, memory: str) -> Iterator[AddAction]:
    """Write the job's files, yielding each when it is complete."""
    run_id = uuid.uuid4().hex[:16]
    writer: rewrite.NewFile | None = None
    number, written = 0, (0, 0)
    try:
        for (month, block), part in _row_groups(_sorted(table, job, schema, memory)):
            file = (month, block * job.buckets[month] // job.blocks[month])
            if writer is None or file != written or writer.rows >= 4 * ROWS_PER_FILE:
                if writer is not None:
                    yield writer.close()
                name = "recent" if month == _OPEN else f"{COMPACTED}{month // 100:04d}-{month % 100:02d}"
                writer = rewrite.NewFile(table, f"{name}/{run_id}-{number}.parquet", schema)
                written, number = file, number + 1
            writer.add(part.select(schema.names))
    except BaseException:
        if writer is not None:
            writer.discard()
        raise
    if writer is not None:
        yield writer.close()


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[tuple[int, int], pa.RecordBatch]]:
    """Yield the rows of each (month, block) at once, or in pieces where they are many."""
    waiting: list[pa.RecordBatch] = []
    rows, current = 0, (0, 0)
    for group, part in _parts(batches):
        if waiting and (group != current or rows + part.num_rows > rewrite.ROW_GROUP):
            yield current, pa.concat_batches(waiting)
            waiting, rows = [], 0
        waiting.append(part)
        rows, current = rows + part.num_rows, group
    if waiting:
        yield current, pa.concat_batches(waiting)


def _parts(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[tuple[int, int], pa.RecordBatch]]:
    """Yield each batch in pieces of one (month, block)."""
    for batch in batches:
        months, blocks = (batch[name].to_numpy(zero_copy_only=False) for name in (_MONTH, _BLOCK))
        edges = np.flatnonzero((np.diff(months) != 0) | (np.diff(blocks) != 0)) + 1
        for first, last in zip([0, *edges], [*edges, batch.num_rows], strict=True):
            if last > first:
                group = (int(months[first]), int(blocks[first]))
                yield group, batch.slice(int(first), int(last - first))
