"""Works 1, 2 and 3: training sets from the offline store, beside SQL on raw Parquet, a kernel, and Feast.

Ours is `FeatureStore.get_offline_features` on a table that `featurestore ingest` and `featurestore compact`
left, with the caller's rows in memory; the references get the same rows in memory and the raw files, as
they were written: in the order of time. Every contestant returns its result in memory, in a process of its
own, and uses all cores. All results are compared before a row is printed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data import DAY, write_events, write_labels
from benchmarks.harness import Bench, Measured, Point, Row, absolute, at_least, at_most, best, isolated

EVENTS, LABELS, CUSTOMERS = 10_000_000, 1_000_000, 100_000
WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
FUNCTIONS = ("sum", "count", "max", "avg")
AGGREGATES = [f"amount_{function}_{window}" for window in WINDOWS for function in FUNCTIONS]

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
schema: {customer: int64, at: timestamp, amount: float64, items: int64}
batch: {kind: parquet, path: events/*.parquet}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
aggregations:
  - {column: amount, functions: [sum, count, max, avg], windows: [1d, 7d, 30d]}
---
kind: FeatureVector
name: plain
features: [spend.amount, spend.items]
---
kind: FeatureVector
name: one_window
features: [spend.amount, spend.items, spend.amount_sum_1d, spend.amount_count_1d, spend.amount_max_1d,
           spend.amount_avg_1d]
---
kind: FeatureVector
name: windowed
features: [spend.*]
"""


def plain_join(bench: Bench) -> Iterator[Row]:
    """Work 1: two plain features."""
    for skew in ("uniform", "zipf"):
        folder = _prepared(bench, skew)
        ours = _measured("ours", folder, vector="plain")
        asof = _measured("duckdb_asof", folder)
        _same(folder, "ours", "duckdb_asof", ["amount", "items"])
        work = f"point-in-time join, 2 plain features ({skew})"
        yield at_most(1, work, ours.value, "s", "DuckDB ASOF", asof.value, 1, peak_memory=ours.peak_memory)
        if skew == "uniform":
            yield from _beside_feast(bench, folder, ours)


def windowed_join(bench: Bench) -> Iterator[Row]:
    """Work 2: the same, and three exact windows of four functions."""
    for skew in ("uniform", "zipf"):
        folder = _prepared(bench, skew)
        ours = _measured("ours", folder, vector="windowed")
        kernel = _measured("kernel", folder)
        sql = _measured("duckdb_windows", folder)
        _same(folder, "ours", "kernel", ["amount", "items", *AGGREGATES])
        _same(folder, "ours", "duckdb_windows", AGGREGATES)
        work, memory = f"and 3 exact windows x 4 functions ({skew})", ours.peak_memory
        yield at_least(2, work, ours.value, "s", "DuckDB RANGE", sql.value, 4, peak_memory=memory)
        yield at_most(2, work, ours.value, "s", "sort + kernel", kernel.value, 1.2, peak_memory=memory)


def large_join(bench: Bench) -> Iterator[Row]:
    """Work 3: work 2 with ten times the rows, of ten times the entities."""
    small = _prepared(bench, "uniform")
    large = _prepared(bench, "uniform", 10)
    least = _measured("ours", small, vector="windowed", repeats=2)
    most = _measured("ours", large, vector="windowed", repeats=2)  # of both: a process's first call is slower
    _same_sample(large)
    events = bench.size(EVENTS)
    expected = least.value * 10 * math.log(10 * events) / math.log(events)
    work = f"{10 * events:,} events, {10 * bench.size(LABELS):,} rows"
    yield at_most(3, work, most.value, "s", "n log n from a tenth", expected, 1, peak_memory=most.peak_memory)
    yield absolute(3, f"{work}: memory", most.peak_memory / 1e9, "GB", 6)


def growth(bench: Bench) -> Iterator[Point]:
    """How the time and memory of a training set grow with rows, entities, windows and cores."""
    for share in (0.01, 0.1, 1.0):
        folder = _prepared(bench, "uniform", share)
        rows = bench.size(round(EVENTS * share))
        for vector in ("plain", "windowed"):
            found = _measured("ours", folder, vector=vector)
            yield Point("training set: time by events", vector, rows, found.value, "s")
            yield Point("training set: memory by events", vector, rows, found.peak_memory / 1e9, "GB")
    for skew in ("uniform", "zipf"):
        for number in (1_000, 10_000, 100_000):
            found = _measured("ours", _prepared(bench, skew, 0.1, number), vector="windowed")
            yield Point("training set: time by entities, a million events", skew, number, found.value, "s")
    folder = _prepared(bench, "uniform")
    for windows, vector in ((1, "one_window"), (3, "windowed")):
        found = _measured("ours", folder, vector=vector)
        yield Point("training set: time by windows", "4 functions each", windows, found.value, "s")
    for cores in range(1, len(os.sched_getaffinity(0)) + 1):
        found = _measured("ours", folder, vector="windowed", cores=cores)
        yield Point("training set: time by cores", "windowed", cores, found.value, "s")


def _prepared(bench: Bench, skew: str, times: float = 1, number: int | None = None) -> Path:
    """Return a folder with the raw files, the questions and the store, made where it is not there."""
    customers = bench.size(round(CUSTOMERS * times), 10) if number is None else number
    folder = bench.scratch(f"offline-{skew}-{times:g}-{customers}")
    write_events(folder / "events", bench.size(round(EVENTS * times)), customers, skew)
    write_labels(folder / "labels.parquet", bench.size(round(LABELS * times)), customers, skew)
    if not (folder / "ready").exists():
        isolated("benchmarks.offline:fill", folder=str(folder))
        (folder / "ready").touch()
    return folder


def _measured(name: str, folder: Path, repeats: int = 3, **arguments: Any) -> Measured:
    return isolated(f"benchmarks.offline:{name}", folder=str(folder), repeats=repeats, **arguments)


def _same(folder: Path, one: str, other: str, columns: list[str]) -> None:
    isolated("benchmarks.offline:compare", folder=str(folder), one=one, other=other, columns=columns)


def _same_sample(folder: Path) -> None:
    isolated("benchmarks.offline:compare_sample", folder=str(folder))


def _beside_feast(bench: Bench, folder: Path, ours: Measured) -> Iterator[Row]:
    """Feast with DuckDB. Rows of one key and instant are one to it; they are compared by what is left."""
    python = bench.peer("feast")
    found = None
    if python is not None:
        found = isolated("feast_join:measure", python=python, folder=str(folder))
        _same_as_feast(folder)
    seconds = None if found is None else found.value
    yield at_least(
        1, "point-in-time join, 2 plain features", ours.value, "s", "Feast", seconds, 20,
        peak_memory=ours.peak_memory,
    )  # fmt: skip
    yield at_most(
        1, "peak memory of the join", ours.peak_memory / 1e9, "GB", "Feast",
        None if found is None else found.peak_memory / 1e9, 0.5,
    )  # fmt: skip


def _same_as_feast(folder: Path) -> None:
    isolated(
        "benchmarks.offline:compare", folder=str(folder), one="ours", other="feast",
        columns=["amount", "items"],
    )  # fmt: skip


# What runs in a process of its own


def fill(folder: str) -> None:
    """Make the store: apply, ingest, compact."""
    from featurestore import FeatureStore

    root = Path(folder)
    (root / "featurestore.yaml").write_text("project: offline\n")
    sets, mark, _ = SPECS.partition("---\nkind: FeatureVector")
    assert mark
    (root / "features.yaml").write_text(sets + "online: false\n")  # rows that nobody reads online
    with FeatureStore(root) as store:
        store.apply()
        store.ingest("spend")
        store.compact("spend")
    (root / "features.yaml").write_text(SPECS)
    with FeatureStore(root) as store:
        store.apply()


def ours(folder: str, repeats: int, vector: str, cores: int | None = None) -> float:
    """Return the least seconds of `get_offline_features`, on so many cores (None: all)."""
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before threads are started
    import polars as pl

    from featurestore import FeatureStore

    labels = pl.read_parquet(f"{folder}/labels.parquet")
    made: list[Any] = []
    with FeatureStore(folder) as store:

        def once() -> None:
            made.clear()
            made.append(store.get_offline_features(vector, labels))

        seconds = best(once, repeats)
    made[0].to_polars().write_parquet(f"{folder}/ours.parquet")
    return seconds


def duckdb_asof(folder: str, repeats: int) -> float:
    """Return the least seconds of DuckDB's ASOF join of the questions with the raw files."""
    return _duckdb(
        folder,
        repeats,
        "duckdb_asof",
        """
        SELECT l.*, e.amount, e.items FROM labels l
        ASOF LEFT JOIN read_parquet('{folder}/events/*.parquet') e
        ON l.customer = e.customer AND l.event_timestamp >= e."at"
        """,
    )


def duckdb_windows(folder: str, repeats: int) -> float:
    """Return the least seconds of DuckDB's RANGE windows over events and questions together.

    Instants are microseconds, so that (t - W, t] is a frame of W - 1 before the row; the two plain features
    are left out, to its advantage.
    """
    order = 'PARTITION BY customer ORDER BY "at" RANGE BETWEEN'
    frames = ", ".join(
        f"w{name} AS ({order} {width - 1} PRECEDING AND CURRENT ROW)" for name, width in WINDOWS.items()
    )
    columns = ", ".join(
        f"coalesce(sum(amount) OVER w{name}, 0) AS amount_sum_{name}, count(amount) OVER w{name} AS"
        f" amount_count_{name}, max(amount) OVER w{name} AS amount_max_{name}, avg(amount) OVER w{name} AS"
        f" amount_avg_{name}"
        for name in WINDOWS
    )
    return _duckdb(
        folder,
        repeats,
        "duckdb_windows",
        f"""
        WITH both_kinds AS (
            SELECT NULL AS row, customer, epoch_us("at") AS "at", amount
            FROM read_parquet('{{folder}}/events/*.parquet')
            UNION ALL SELECT row, customer, epoch_us(event_timestamp), NULL FROM labels
        )
        SELECT * FROM (SELECT row, {columns} FROM both_kinds WINDOW {frames}) WHERE row IS NOT NULL
        """,
    )


def _duckdb(folder: str, repeats: int, name: str, query: str) -> float:
    """DuckDB with its defaults: all cores; the order of rows need not be kept."""
    import duckdb
    import polars as pl
    import pyarrow as pa

    labels = pl.read_parquet(f"{folder}/labels.parquet").to_arrow()
    made: list[pa.Table] = []
    with duckdb.connect(config={"preserve_insertion_order": False}) as connection:
        connection.register("labels", labels)

        def once() -> None:
            made.clear()
            made.append(connection.sql(query.format(folder=folder)).to_arrow_table())

        seconds = best(once, repeats)
    _write(folder, name, pl.from_arrow(made[0]))
    return seconds


def kernel(folder: str, repeats: int) -> float:
    """Return the least seconds of an expert's own program: read, sort, two pointers; see `benchmarks.expert`.

    It is compiled before the clock starts.
    """
    import polars as pl

    from benchmarks import expert

    labels = pl.read_parquet(f"{folder}/labels.parquet")
    made: list[pl.DataFrame] = []
    files = f"{folder}/events/*.parquet"
    expert.join(files, labels.head(100), WINDOWS)

    def once() -> None:
        made.clear()
        made.append(expert.join(files, labels, WINDOWS))

    seconds = best(once, repeats)
    _write(folder, "kernel", made[0])
    return seconds


def _write(folder: str, name: str, frame: Any) -> None:
    frame.write_parquet(f"{folder}/{name}.parquet")


def compare(folder: str, one: str, other: str, columns: list[str]) -> None:
    """Raise unless two results agree: floats to 1e-9 of the values."""
    import polars as pl

    frames = [pl.read_parquet(f"{folder}/{name}.parquet").sort("row") for name in (one, other)]
    if other == "feast":  # has one row for all of an entity and instant
        frames = [f.unique(["customer", "event_timestamp"], keep="first").sort("row") for f in frames]
    if not frames[0]["row"].equals(frames[1]["row"]):
        raise AssertionError(f"{one} and {other} do not answer the same rows")
    for column in columns:
        _agree(column, *(f[column] for f in frames))


def _agree(name: str, one: Any, other: Any) -> None:
    import polars as pl

    one, other = one.cast(pl.Float64), other.cast(pl.Float64)
    wrong = (one.is_null() != other.is_null()) | (
        ((one - other).abs() > 1e-9 * other.abs().clip(1)).fill_null(False)
    )
    if wrong.any():
        at = wrong.arg_max()
        raise AssertionError(f"{name} differs in {wrong.sum()} rows: {one[at]} and {other[at]} in row {at}")


def compare_sample(folder: str) -> None:
    """Raise unless the answers for some entities agree with loops over their rows."""
    import polars as pl

    asked = pl.scan_parquet(f"{folder}/ours.parquet").filter(pl.col("customer") < 20).collect()
    rows = pl.scan_parquet(f"{folder}/events/*.parquet").filter(pl.col("customer") < 20).collect()
    for label in asked.iter_rows(named=True):
        mine = rows.filter(
            pl.col("customer") == label["customer"], pl.col("at") <= label["event_timestamp"]
        ).sort("at")
        assert label["items"] == (mine["items"][-1] if mine.height else None), label
        for name, width in WINDOWS.items():
            inside = mine.filter(pl.col("at") > label["event_timestamp"] - pl.duration(microseconds=width))
            found = inside["amount"]
            assert label[f"amount_count_{name}"] == len(found), (name, label)
            assert label[f"amount_max_{name}"] == found.max(), (name, label)
            assert math.isclose(label[f"amount_sum_{name}"], math.fsum(found), rel_tol=1e-12), (name, label)
