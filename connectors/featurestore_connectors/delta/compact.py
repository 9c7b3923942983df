"""Compaction: rows of closed days into files by month and bucket of shards, sorted by shard, entity and time.

A run puts each row aside once, out of core, by its month and block of shards; then it sorts a block at a
time, each of few enough rows for the processor's caches, and writes it as a row group of one of the month's
files, `compacted/<month>/<run>-<number>.parquet`. So row groups begin where a shard does, at a multiple of a
power of two, and a reader of some of the shards decodes what it needs and no more.
The one commit that follows removes exactly the files that were read and adds the new ones. It is made on
the newest version, as a compare-and-set, if those files are all still in it: rows appended meanwhile
are never touched, and of two compactions the second gives up.

New rows of a month with earlier runs absorb a run that has at most twice their rows, then the next: a
month has few runs (logarithmic in its rows) and a row is rewritten as seldom (size-tiered merging, as in
LSM trees).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction

from featurestore import instants
from featurestore.errors import OperatorError
from featurestore.kernel.places import order_by_time
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
from featurestore_connectors.delta.spill import Spill

if TYPE_CHECKING:
    from featurestore_connectors.delta.table import DeltaTable

ROWS_PER_FILE = 1_000_000
_RUN = re.compile(COMPACTED + r"(\d{4})-(\d{2})/([0-9a-f]+)-\d+\.parquet$")
_MONTH = "__month"
_THREADS = 2
_LARGE = 8  # a group of more than this part of the memory is sorted out of core
_OPEN = 999_999  # the month of rows that stay as they are, sorted last
SORTED_BY = (SHARD, KEY, EVENT_TIME, ORDER, INGEST_TIME, ROW_HASH, PARTITION, SEQUENCE)


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
        _write(table, job, schema, memory, added)
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
        counting = rewrite.read(table, fresh).select(_month(schema, closed)).group_by(_MONTH).len()
        counted = counting.collect(engine="streaming")
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


def _write(table: DeltaTable, job: _Job, schema: pa.Schema, memory: str, added: list[AddAction]) -> None:
    """Write the job's files, some at a time; each is in `added` once it is complete."""
    groups = [(month, block) for month, blocks in sorted(job.blocks.items()) for block in range(blocks)]
    with tempfile.TemporaryDirectory(prefix="featurestore-compact-") as folder:
        limit = _bytes(memory)
        spill = Spill(Path(folder, "rows.arrow"), schema, limit // 2)
        for rows, counts in _grouped(table, job, schema, limit):
            spill.add(rows, counts)
        large = {number for number in range(len(groups)) if spill.size(number) > limit // _LARGE}
        if large:
            spill.flush()  # what sorts such a group takes the memory
        spill.close()
        work = _Files(table, schema, spill, large, memory, Path(folder), added)
        files: dict[tuple[int, int], list[int]] = {}
        for number, (month, block) in enumerate(groups):
            files.setdefault((month, block * job.buckets[month] // job.blocks[month]), []).append(number)
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
            writing = [threads.submit(work.write, month, numbers) for (month, _), numbers in files.items()]
            try:
                for done in writing:
                    done.result()
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise


def _bytes(memory: str) -> int:
    """Return a size as DuckDB reads it, such as 1GB or 512MiB."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?)B?\s*", memory, re.IGNORECASE)
    if found is None:
        raise OperatorError(
            f"memory: '{memory}' is no size.", where="the offline store", hint="Write one such as 4GB."
        )
    power = " KMGT".index(found[2].upper() or " ")
    unit: int = (1024 if found[3] else 1000) ** power
    return round(float(found[1]) * unit)


def _grouped(
    table: DeltaTable, job: _Job, schema: pa.Schema, memory: int
) -> Iterator[tuple[pa.Table, list[tuple[int, int]]]]:
    """Yield the inputs' rows in parts, each in the order of its groups, with (group, number of its rows)."""
    months = sorted(job.blocks)
    blocks = np.array([job.blocks[month] for month in months])
    bases = np.cumsum(blocks) - blocks
    small = np.uint16 if blocks.sum() < 2**16 else np.int64
    for part in rewrite.parts(table, job.inputs, memory // 8):
        frame = part.select(*schema.names, _month(schema, job.closed)).collect()
        place = np.searchsorted(months, frame[_MONTH].to_numpy())
        shard = frame[SHARD].to_numpy() if SHARD in schema.names else np.zeros(frame.height, np.int64)
        number = (bases[place] + shard * blocks[place] // SHARDS).astype(small)
        rows = frame.select(schema.names)
        if (number[1:] < number[:-1]).any():
            rows = rows[np.argsort(number, kind="stable")]
        sizes = np.bincount(number)
        there = np.flatnonzero(sizes)
        arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
        yield arrow, list(zip(there.tolist(), sizes[there].tolist(), strict=True))


class _Files:
    """Writes groups of rows, sorted, into files. `write` may run in several threads.

    `large` are the groups that are sorted out of core, in `memory`.
    """

    def __init__(
        self,
        table: DeltaTable,
        schema: pa.Schema,
        spill: Spill,
        large: set[int],
        memory: str,
        folder: Path,
        added: list[AddAction],
    ) -> None:
        self._table = table
        self._schema = schema
        self._spill = spill
        self._large = large
        self._memory = memory
        self._folder = folder
        self._added = added
        self._run = uuid.uuid4().hex[:16]
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def write(self, month: int, groups: Sequence[int]) -> None:
        """Write a month's groups, in their order, into one file, or several where they are many rows."""
        file: rewrite.NewFile | None = None
        try:
            for group in groups:
                for rows in self._sorted(group):
                    if file is not None and file.rows >= 4 * ROWS_PER_FILE:
                        self._added.append(file.close())
                        file = None
                    if file is None:
                        name = (
                            "recent" if month == _OPEN else f"{COMPACTED}{month // 100:04d}-{month % 100:02d}"
                        )
                        path = f"{name}/{self._run}-{next(self._numbers)}.parquet"
                        file = rewrite.NewFile(self._table, path, self._schema)
                    file.add(rows)
        except BaseException:
            if file is not None:
                file.discard()
            raise
        if file is not None:
            self._added.append(file.close())

    def _sorted(self, group: int) -> Iterator[pa.RecordBatch]:
        """Yield a group's rows by shard, entity and time."""
        if group in self._large:
            with self._lock:  # one at a time
                yield from self._sorted_on_disk(group)
            return
        rows = pa.Table.from_batches(self._spill.take(group), self._schema).combine_chunks()
        order = sorted_order(rows)
        yield from (rows if order is None else rows.take(order)).combine_chunks().to_batches()

    def _sorted_on_disk(self, group: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a group that is too large for the memory; DuckDB spills what exceeds it."""
        order = ", ".join(f'"{name}"' for name in SORTED_BY if name in self._schema.names)
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": self._memory,
            "temp_directory": str(self._folder),
            "preserve_insertion_order": False,
            "threads": 2,  # each needs memory of its own; the sort is not what takes the time
        }
        with duckdb.connect(":memory:", config=config) as connection:
            reader = pa.RecordBatchReader.from_batches(self._schema, self._spill.take(group))
            rows = connection.from_arrow(reader)
            if order:
                rows = rows.order(order)
            waiting: list[pa.RecordBatch] = []
            for batch in rows.to_arrow_reader(rewrite.ROW_GROUP):
                if waiting and sum(map(len, waiting)) + len(batch) > rewrite.ROW_GROUP:
                    yield self._together(waiting)
                    waiting = []
                waiting.append(batch)
            yield self._together(waiting)

    def _together(self, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        return pa.concat_batches(
            [pa.Table.from_batches([b]).cast(self._schema).to_batches()[0] for b in batches]
        )


def sorted_order(rows: pa.Table) -> pa.Array | None:
    """Return the order of rows by `SORTED_BY`; None where they are in it.

    Keys are coded by their rank, so that entity and time are one number; the rest of the columns is looked at
    where that number is equal.
    """
    names = [name for name in SORTED_BY if name in rows.column_names]
    frame = pl.DataFrame(pl.from_arrow(rows.select(names)))
    entity = [name for name in (SHARD, KEY) if name in names]
    if (
        KEY not in names
        or EVENT_TIME not in names
        or any(frame[n].null_count() for n in (*entity, EVENT_TIME))
    ):
        return _in_order(frame).to_arrow() if names else None
    ranks = frame.select(entity).unique().sort(entity).with_row_index("code")
    found = frame.select(entity).join(ranks, on=entity, how="left", maintain_order="left")["code"]
    codes = found.cast(pl.Int64).to_numpy()
    times = frame[EVENT_TIME].to_physical().to_numpy()
    order = order_by_time(codes, times, ranks.height)
    if order is not None:
        codes, times = codes[order], times[order]
    tied = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    if tied.any():
        places = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        order = np.arange(len(codes)) if order is None else order
        rest = frame[order[places]].drop(entity, EVENT_TIME)
        ties = [pl.Series("code", codes[places]), pl.Series("time", times[places])]
        order[places] = order[places][_in_order(pl.DataFrame([*ties, *rest])).to_numpy()]
    return None if order is None else pa.array(order)


def _in_order(frame: pl.DataFrame) -> pl.Series:
    return frame.select(pl.arg_sort_by(frame.columns, nulls_last=True)).to_series()
