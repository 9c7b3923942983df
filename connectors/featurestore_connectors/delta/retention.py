"""Retention: rows that became known before an instant leave a table, by whole UTC days.

A file all of whose rows are older leaves it unread; one that has younger rows too is written anew without
the older ones. The commit is that of `rewrite`: rows appended meanwhile stay, positions do too, and where
compaction took a file first, this run gives up. What went is noted in the same commit.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction

from featurestore import instants, tables
from featurestore.plans import INGEST_TIME, PARTITION, SEQUENCE
from featurestore_connectors.delta import rewrite, storage

if TYPE_CHECKING:
    from featurestore_connectors.delta.table import DeltaTable

_STATISTICS_STEP = 999  # deltalake cuts the bounds of timestamps to milliseconds


def run(table: DeltaTable, before: int) -> dict[str, int]:
    """Delete rows that became known before the day of `before`; return `files`, `rows` and `abandoned`."""
    counts = {"files": 0, "rows": 0, "abandoned": 0}
    snapshot = table.snapshot()
    if snapshot is None:
        return counts
    schema: pa.Schema = snapshot.handle.schema()
    time = INGEST_TIME if INGEST_TIME in schema.names else rewrite.LETTER_TIME
    before = before // instants.DAY * instants.DAY
    inputs = _older(table, snapshot.handle.adds(), time, before)
    if inputs.is_empty():
        return counts
    old = pl.col(time) < pl.lit(before).cast(pl.Datetime("us", "UTC"))
    gone = rewrite.read(table, inputs).filter(old)
    notes = {tables.FORGOTTEN: before}
    if SEQUENCE in schema.names:
        ends = gone.group_by(PARTITION).agg(pl.col(SEQUENCE).max() + 1, pl.len()).collect(engine="streaming")
        notes |= {f"{tables.FORGOTTEN}{name}": end for name, end, _ in ends.iter_rows()}
        rows = int(ends["len"].sum())
    else:
        rows = int(gone.select(pl.len()).collect(engine="streaming").item())
    if not rows:
        return counts
    files = table.location.filesystem()
    added: list[AddAction] = []
    try:
        _write(table, inputs, ~old, schema, added)
        storage.flush(table.location, [action.path for action in added])
    except BaseException:
        rewrite.delete(files, added)
        raise
    if not rewrite.replace(table, inputs, added, schema, notes):
        rewrite.delete(files, added)
        return counts | {"abandoned": 1}
    return counts | {"files": inputs.height, "rows": rows}


def _older(table: DeltaTable, adds: pl.DataFrame, time: str, before: int) -> pl.DataFrame:
    """Return the files that hold an older row, with `__old`: whether all of their rows are older."""
    low, high = f"min.{time}", f"max.{time}"
    if low not in adds.columns or high not in adds.columns:
        adds = adds.with_columns(pl.lit(None, pl.Int64).alias(low), pl.lit(None, pl.Int64).alias(high))
    bounds = adds.select("path", "size_bytes", pl.col(low, high).cast(pl.Int64))
    unknown = bounds.filter(pl.col(low).is_null() | pl.col(high).is_null())
    if unknown.height:
        first, last = pl.col(time).min().dt.epoch("us"), pl.col(time).max().dt.epoch("us")
        found = [
            rewrite.read(table, unknown[number]).select(first.alias(low), last.alias(high)).collect()
            for number in range(unknown.height)
        ]
        bounds = pl.concat(
            [
                bounds.filter(pl.col(low).is_not_null(), pl.col(high).is_not_null()),
                unknown.select("path", "size_bytes").hstack(pl.concat(found)),
            ]
        )
    whole = (pl.col(high) + _STATISTICS_STEP < before).alias("__old")
    return bounds.filter(pl.col(low) < before).select("path", "size_bytes", whole)


def _write(
    table: DeltaTable, inputs: pl.DataFrame, kept: pl.Expr, schema: pa.Schema, added: list[AddAction]
) -> None:
    """Write each file that has younger rows without its older ones, in its order, among its like."""
    run_id = uuid.uuid4().hex[:16]
    for number, path in enumerate(inputs.filter(~pl.col("__old"))["path"]):
        rows = rewrite.read(table, inputs.filter(pl.col("path") == path)).filter(kept).select(schema.names)
        folder = path.rpartition("/")[0] if path.startswith("compacted/") else "recent"
        writer = rewrite.NewFile(table, f"{folder}/{run_id}-{number}.parquet", schema)
        try:
            for frame in rows.collect_batches(chunk_size=rewrite.ROW_GROUP, maintain_order=True):
                part = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
                for batch in part.combine_chunks().to_batches():
                    writer.add(batch)
        except BaseException:
            writer.discard()
            raise
        if writer.rows:
            added.append(writer.close())
        else:
            writer.discard()
