"""Works 5 and 11: loading plain features of a million entities into Redis, and how many bytes entities take.

Loading is `FeatureStore.materialize` of a set whose rows are in the offline store. The expert has the bytes
that we would store, key and value, in memory beforehand, RESP formed as well, and sends SETs down one
connection, thousands at a time, so that what is timed is sending alone. Feast materializes from Parquet.

Features are, of fifty, twenty float64 (amounts in cents, and averages of all bits), ten float32, fifteen
int64 (counts) and five bool, 3 % of the values null. The bytes are the growth of the server's used_memory.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import SEED, Bench, Point, Row, at_least, at_most, isolated

ENTITIES, FEAST_ENTITIES, SAMPLE = 1_000_000, 50_000, 1000
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
EVENTS, WINDOW_ENTITIES = 40, 2000


def load(bench: Bench) -> Iterator[Row]:
    """Measure ours, the expert's SETs of as many bytes, and Feast by its rate."""
    entities = bench.size(ENTITIES, 1000)
    folder = bench.scratch("loading")
    features(folder / "rows.parquet", entities)
    isolated("benchmarks.loading:prepare", folder=str(folder))
    ours = isolated("benchmarks.loading:materialize", folder=str(folder))
    found = ours.value
    theirs = isolated("benchmarks.loading:pipelined", entities=entities, size=found["value_bytes"]).value
    work = f"load {entities:,} entities x 50 features into Redis"
    yield at_most(
        5, work, found["seconds"], "s", "pipelined SET of the same bytes", theirs, 3,
        peak_memory=ours.peak_memory, value_bytes=found["value_bytes"], processor_seconds=found["processor"],
    )  # fmt: skip
    feast = bench.peer("feast")
    rate = None
    if feast is not None:
        few = bench.size(FEAST_ENTITIES, 1000)
        features(folder / f"feast-{few}.parquet", few)
        path = str(folder / f"feast-{few}.parquet")
        peer = _with_server("feast_load:load", feast, path=path)
        rate = few / peer["seconds"]
    yield at_least(5, work, entities / found["seconds"], "entities/s", "Feast", rate, 40)


def bytes_per_entity(bench: Bench) -> Iterator[Row]:
    """Measure used_memory over entities: plain features beside Feast's, windows beside storey's."""
    entities = bench.size(100_000, 5000)
    for name, work in (
        ("mixed", "50 plain features, mixed types"),
        ("random", "50 plain features, random doubles"),
    ):
        folder = bench.scratch(f"bytes-{name}")
        features(folder / "rows.parquet", entities, only_random=name == "random")
        isolated("benchmarks.loading:prepare", folder=str(folder))
        ours = isolated("benchmarks.loading:materialize", folder=str(folder)).value
        feast, theirs = bench.peer("feast"), None
        if feast is not None:
            few = bench.size(10_000, 5000)
            features(folder / f"feast-{few}.parquet", few, only_random=name == "random")
            path = str(folder / f"feast-{few}.parquet")
            theirs = _with_server("feast_load:load", feast, path=path)["bytes"] / few
        yield at_most(
            11, f"bytes per entity: {work}", ours["bytes"] / entities, "bytes", "Feast", theirs, 1 / 3
        )
    few = bench.size(WINDOW_ENTITIES * 10, WINDOW_ENTITIES)
    folder = bench.scratch("bytes-windows")
    payments(folder / "payments.parquet", few)
    ours = isolated("benchmarks.loading:windows", folder=str(folder)).value
    storey, theirs = bench.peer("storey"), None
    if storey is not None:
        fewer = bench.size(WINDOW_ENTITIES, 200)
        theirs = _with_server("storey_bytes:windows", storey, entities=fewer, events=EVENTS)["bytes"] / fewer
    work = f"27 aggregates at {EVENTS} events, exact"
    yield at_most(11, f"bytes per entity: {work}", ours / few, "bytes", "storey", theirs, 1 / 3)


def growth(bench: Bench) -> Iterator[Point]:
    """Yield the seconds of loading by entities, and the bytes of an entity by its events."""
    for full in (3_000, 30_000, 300_000):
        entities = bench.size(full, 1000)
        folder = bench.scratch(f"loading-{full}")
        features(folder / "rows.parquet", entities)
        isolated("benchmarks.loading:prepare", folder=str(folder))
        found = isolated("benchmarks.loading:materialize", folder=str(folder)).value
        yield Point("loading 50 features into Redis", "featurestore", entities, found["seconds"], "s")
        sent = isolated("benchmarks.loading:pipelined", entities=entities, size=found["value_bytes"]).value
        yield Point("loading 50 features into Redis", "pipelined SET", entities, sent, "s")
    for events in (1, 10, 100, 1000):
        folder = bench.scratch(f"bytes-{events}")
        entities = bench.size(200_000 // events // 10, 100)
        payments(folder / "payments.parquet", entities, events)
        used = isolated("benchmarks.loading:windows", folder=str(folder)).value
        yield Point("bytes in Redis of 27 aggregates", "featurestore", events, used / entities, "bytes")


def features(path: Path, entities: int, *, only_random: bool = False) -> None:
    """Write one row of fifty features per entity."""
    if path.exists():
        return
    random = np.random.default_rng(SEED)
    columns: dict[str, Any] = {
        "customer": random.permutation(entities),
        "at": pl.Series(random.integers(0, 3_600_000_000, entities)).cast(pl.Duration("us")) + BEGIN,
    }
    for number in range(50):
        values: Any = random.normal(size=entities)
        if not only_random:
            if number < 10:
                values = np.round(np.exp(values + 4), 2)
            elif 20 <= number < 30:
                values = values.astype("f4")
            elif 30 <= number < 45:
                values = random.zipf(1.5, entities) % 100_000
            elif number >= 45:
                values = values > 0
            values = pl.Series(values)
            values = values.zip_with(pl.Series(random.random(entities) >= 0.03), values.clear(entities))
        columns[f"f{number}"] = values
    pl.DataFrame(columns).write_parquet(path)


def payments(path: Path, entities: int, events: int = EVENTS) -> None:
    """Write payments of the last day, as many of each entity; anew in each run, for their times are its."""
    random = np.random.default_rng(SEED)
    rows = entities * events
    frame = pl.DataFrame(
        {
            "customer": np.repeat(np.arange(entities), events),
            "at": pl.Series(random.integers(0, 79_200_000_000, rows)).cast(pl.Duration("us"))
            + (BEGIN - timedelta(hours=20)),
            "amount": np.round(random.lognormal(3, 1, rows), 2),
        }
    )
    frame.sort("at").write_parquet(path)


def prepare(folder: str) -> None:
    """Ingest the rows into an offline store, where that was not done."""
    from featurestore import FeatureStore

    root = Path(folder) / "store"
    if (root / "done").exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "featurestore.yaml").write_text(PROJECT.format(port=1))
    kinds = pl.read_parquet_schema(Path(folder) / "rows.parquet")
    names = {pl.Float64: "float64", pl.Float32: "float32", pl.Int64: "int64", pl.Boolean: "bool"}
    schema = ", ".join(f"{name}: {names[type(kind)]}" for name, kind in kinds.items() if name.startswith("f"))
    (root / "features.yaml").write_text(SPECS.format(schema=schema, online="false"))
    with FeatureStore(root) as store:
        store.apply()
        store.ingest("profile")
    (root / "features.yaml").write_text(SPECS.format(schema=schema, online="true"))
    (root / "done").touch()


def materialize(folder: str) -> dict[str, Any]:
    """Return the seconds of `FeatureStore.materialize` into an empty server, and what lies there then."""
    from featurestore import FeatureStore
    from featurestore_connectors.embedded import EmbeddedServer

    root = Path(folder) / "store"
    with EmbeddedServer() as server:
        (root / "featurestore.yaml").write_text(PROJECT.format(port=server.port))
        with FeatureStore(root) as store:
            store.apply()
            before = used_memory(server.port)
            began, processor = time.perf_counter(), time.process_time()
            store.materialize("profile")
            seconds = time.perf_counter() - began
            processor = time.process_time() - processor
            used = used_memory(server.port) - before
            size = _check(store, Path(folder) / "rows.parquet")
    return {"seconds": seconds, "processor": processor, "bytes": used, "value_bytes": size}


def _check(store: Any, path: Path) -> int:
    """Return the mean bytes of a packed value, once entities drawn at random are served as they were."""
    import msgspec

    rows = pl.read_parquet(path)
    drawn = rows.sample(SAMPLE, seed=SEED)
    keys = [{"customer": key} for key in drawn["customer"]]
    served = store.get_online_features([f"profile.f{n}" for n in range(50)], keys).rows
    wanted = [list(row) for row in drawn.select(pl.col("^f.*$")).iter_rows()]
    if served != wanted:
        raise AssertionError("what is served is not what was loaded")
    return round(sum(len(msgspec.msgpack.encode(row)) for row in wanted) / len(wanted))


def pipelined(entities: int, size: int) -> float:
    """Return the seconds of SETs of values of this size, sent as fast as one connection takes them."""
    from featurestore_connectors.embedded import EmbeddedServer

    value = np.random.default_rng(SEED).bytes(size)
    with EmbeddedServer() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        blocks = []
        for first in range(0, entities, 2000):
            keys = [b"fs:profile:%016d" % key for key in range(first, min(first + 2000, entities))]
            sent = [b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(k), k, size, value) for k in keys]
            blocks.append((b"".join(sent), 5 * len(keys)))  # the answers: +OK
        began = time.perf_counter()
        waiting = 0
        for block, answer in blocks:
            connection.sendall(block)
            waiting += answer
            while waiting > 200_000:
                waiting -= len(connection.recv(1 << 20))
        while waiting > 0:
            waiting -= len(connection.recv(1 << 20))
        seconds = time.perf_counter() - began
        connection.sendall(b"DBSIZE\r\n")
        if connection.recv(100) != b":%d\r\n" % entities:
            raise AssertionError("not every value was set")
    return seconds


def windows(folder: str) -> float:
    """Return the bytes that entities with windows take in a server."""
    from featurestore import FeatureStore
    from featurestore_connectors.embedded import EmbeddedServer

    root = Path(folder) / "windows"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    with EmbeddedServer() as server:
        (root / "featurestore.yaml").write_text(PROJECT.format(port=server.port))
        (root / "features.yaml").write_text(WINDOWS)
        with FeatureStore(root) as store:
            store.apply()
            before = used_memory(server.port)
            store.ingest("spend")
            used = used_memory(server.port) - before
            [row] = store.get_online_features(
                ["spend.amount_count_1d", "spend.amount_sum_1d"], [{"customer": 0}]
            ).rows
    mine = pl.read_parquet(Path(folder) / "payments.parquet").filter(pl.col("customer") == 0)
    if row[0] != mine.height or abs(row[1] - mine["amount"].sum()) > 1e-6:
        raise AssertionError(f"what is served is not what was loaded: {row}")
    return used


def used_memory(port: int) -> int:
    """Return the bytes that a server's data takes."""
    import redis

    with redis.Redis(port=port) as client:
        return int(client.info("memory")["used_memory"])


def _with_server(function: str, python: Path, **arguments: Any) -> Any:
    from featurestore_connectors.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        return isolated(function, python=python, port=server.port, **arguments).value


PROJECT = """
project: loading
online: {{kind: redis, url: "redis://127.0.0.1:{port}"}}
"""

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: profiles
event_time: at
schema: {{customer: int64, at: timestamp, {schema}}}
batch: {{kind: parquet, path: ../rows.parquet}}
---
kind: FeatureSet
name: profile
entities: [customer]
source: profiles
online: {online}
"""

WINDOWS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
schema: {customer: int64, at: timestamp, amount: float64}
batch: {kind: parquet, path: ../payments.parquet}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
steps:
  - select: [customer, at]
aggregations:
  - {column: amount, functions: [sum, count, avg, min, max, var, std, first, last], windows: [1h, 6h, 1d]}
"""
