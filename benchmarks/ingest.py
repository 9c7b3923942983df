"""Work 4: `ingest` with six steps into the offline store, beside Polars writing the same Parquet by hand.

The expert's program scans the same files, does the six steps in Polars' own expressions and sinks files
with all the columns of ours: also key, shard, times, hash and position, for which it takes Polars' own hash.
Both use all cores; each starts in a process of its own with the files in the page cache.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import SEED, Bench, Point, Row, at_most, isolated

ROWS, FILES, ENTITIES = 10_000_000, 10, 100_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
AGES, GENDERS = ["0", "1", "2", "3", "4", "5", "6", "U"], ["F", "M", "E", "U"]
SHOPS, DAYS = 5000, 180


def ingest(bench: Bench) -> Iterator[Row]:
    """Measure both, and compare every column that means something in both."""
    folder = bench.scratch("ingest")
    rows = bench.size(ROWS, 1000)
    generate(folder / "events", rows, FILES)
    theirs = isolated("benchmarks.ingest:by_hand", folder=str(folder))
    ours = isolated("benchmarks.ingest:by_ingest", folder=str(folder))
    same = isolated("benchmarks.ingest:check", folder=str(folder)).value
    if not same["equal"]:
        raise AssertionError(f"the tables differ: {same}")
    yield at_most(
        4, f"ingest {rows:,} rows with 6 steps", ours.value, "s", "Polars by hand", theirs.value, 1.5,
        peak_memory=ours.peak_memory, reference_peak_memory=theirs.peak_memory, **same,
    )  # fmt: skip


def growth(bench: Bench) -> Iterator[Point]:
    """Yield the seconds of an ingest by its rows, beside those by hand."""
    for full in (20_000, 200_000, 2_000_000):
        rows = bench.size(full, 1000)
        folder = bench.scratch(f"ingest-{full}")
        generate(folder / "events", rows, 1)
        for line, function in (("featurestore", "by_ingest"), ("Polars by hand", "by_hand")):
            seconds = isolated(f"benchmarks.ingest:{function}", folder=str(folder)).value
            yield Point("ingest with 6 steps", line, rows, seconds, "s")


def generate(folder: Path, rows: int, files: int) -> None:
    """Write payments of Zipf-skewed shops and uniform customers, in the order of their times."""
    if folder.exists():
        return
    random = np.random.default_rng(SEED)
    making = folder.with_name("making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    each = -(-rows // files)
    for number in range(files):
        size = min(each, rows - number * each)
        seconds = np.sort(random.uniform(0, DAYS * 86_400 / files, size)) + number * DAYS * 86_400 / files
        frame = pl.DataFrame(
            {
                "id": np.arange(number * each, number * each + size),
                "customer": random.integers(0, ENTITIES, size),
                "shop": pl.Series(random.zipf(1.2, size) % SHOPS).cast(pl.String),
                "at": pl.Series((seconds * 1e6).astype("i8")).cast(pl.Duration("us")) + BEGIN,
                "age": pl.Series(AGES)[random.integers(0, len(AGES), size).tolist()],
                "gender": pl.Series(GENDERS)[random.integers(0, len(GENDERS), size).tolist()],
                "amount": np.round(random.lognormal(3, 1, size), 2),
                "fraud": random.random(size) < 0.01,
            }
        )
        frame.write_parquet(making / f"{number:02}.parquet")
    making.rename(folder)


def by_ingest(folder: str) -> float:
    """Return the seconds of `FeatureStore.ingest` into an empty store."""
    from featurestore import FeatureStore

    root = Path(folder) / "ours"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "featurestore.yaml").write_text("project: ingest\n")
    (root / "features.yaml").write_text(SPECS)
    with FeatureStore(root) as store:
        store.apply()
        began = time.perf_counter()
        store.ingest("payment_rows")
        return time.perf_counter() - began


def by_hand(folder: str) -> float:
    """Return the seconds of the expert's program, its files forced to the disk as ours are."""
    import os

    target = Path(folder) / "theirs"
    shutil.rmtree(target, ignore_errors=True)
    began = time.perf_counter()
    target.mkdir()
    for path in sorted((Path(folder) / "events").glob("*.parquet")):
        _steps(pl.scan_parquet(path)).sink_parquet(target / path.name, compression="snappy")
        with (target / path.name).open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def _steps(frame: pl.LazyFrame) -> pl.LazyFrame:
    at, age, amount = pl.col("at"), pl.col("age"), pl.col("amount")
    return (
        frame.with_columns(pl.struct("id", "customer", "shop", "at", "age", "gender", "amount", "fraud")
                           .hash().reinterpret(signed=True).alias("__row_hash"))
        .with_columns(
            at.dt.hour().cast(pl.Int64).alias("at_hour"),
            (at.dt.weekday().cast(pl.Int64) - 1).alias("at_day_of_week"),
            age.replace({"U": "0"}),
            *((pl.col("gender") == value).cast(pl.Int8).alias(f"gender_{value}") for value in GENDERS),
            amount.clip(0, 1000),
        )
        .with_columns(
            (amount + 1).log().alias("log_amount"),
            amount.cut([10.0, 100.0], labels=["small", "medium", "large"], left_closed=True)
            .cast(pl.String).alias("size"),
            pl.concat_str(pl.lit("i"), pl.col("customer").cast(pl.String)).cast(pl.Binary).alias("__key"),
            (pl.col("customer").hash() % 256).cast(pl.Int16).alias("__shard"),
            at.alias("__event_time"),
            at.alias("__ingest_time"),
            pl.lit("batch").alias("__partition"),
            pl.col("id").alias("__sequence"),
        )
    )  # fmt: skip


def check(folder: str) -> dict[str, Any]:
    """Return whether both hold the same: the sum of each column's hashes of (id, value), and of rows."""
    from featurestore import FeatureStore

    with FeatureStore(Path(folder) / "ours") as store:
        [plan] = store.catalog.live_sets()
        table = store.environment.rows_table(plan)
        files = table.files(table.snapshot())
    theirs = pl.scan_parquet(Path(folder) / "theirs" / "*.parquet")
    ours = pl.scan_parquet(files, hive_partitioning=False)
    names = [name for name in theirs.collect_schema().names() if name not in OWN]

    def digest(frame: pl.LazyFrame) -> dict[str, Any]:
        cells = [
            (pl.struct("id", (pl.col(name).round(9) if name == "log_amount" else pl.col(name)).alias("value"))
             .hash() // (1 << 30)).sum().alias(name)
            for name in names
        ]  # fmt: skip
        return frame.select(pl.len().alias("rows"), *cells).collect(engine="streaming").row(0, named=True)

    first, second = digest(ours), digest(theirs)
    different = [name for name in first if first[name] != second[name]]
    size = sum(Path(file).stat().st_size for file in files)
    size_theirs = sum(path.stat().st_size for path in (Path(folder) / "theirs").glob("*.parquet"))
    columns = set(ours.collect_schema().names()) ^ set(theirs.collect_schema().names())
    return {
        "equal": not different and not columns,
        "different": different,
        "other_columns": sorted(columns),
        "bytes": size,
        "reference_bytes": size_theirs,
    }


OWN = {"__key", "__shard", "__row_hash", "__sequence"}
"""Columns that Polars by hand has in other values: of another hash, another form of key."""

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
schema: {id: int64, customer: int64, shop: string, at: timestamp, age: string, gender: string,
         amount: float64, fraud: bool}
batch: {kind: parquet, path: "../events/*.parquet"}
---
kind: FeatureSet
name: payment_rows
entities: [customer]
source: payments
online: false
steps:
  - date_parts: {column: at, parts: [hour, day_of_week]}
  - map_values: {column: age, mapping: {U: "0"}}
  - one_hot: {column: gender, values: [F, M, E, U]}
  - clip: {column: amount, min: 0, max: 1000}
  - derive: {log_amount: "ln(amount + 1)"}
  - map_values:
      {column: amount, mapping: {ranges: [[null, 10, small], [10, 100, medium]]}, default: large, into: size}
"""
