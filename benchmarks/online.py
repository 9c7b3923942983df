"""Works 8 and 9: feature vectors in process, from Redis, beside one round trip and beside Feast."""

from __future__ import annotations

import math
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import SEED, Bench, Point, Row, at_least, at_most, isolated, median, percentile
from benchmarks.vectors import EVENTS, FUNCTIONS, HOT, PLAIN, WINDOWS, aggregate_names

SIZES = (1, 10, 100)
ENTITIES = 20_000
WINDOWED_ENTITIES = 2_000
HOT_EVENTS = 100_000


def plain_vector(bench: Bench) -> Iterator[Row]:
    """Measure a vector of 50 features for 1, 10 and 100 entities."""
    from featurestore_connectors.embedded import EmbeddedServer

    entities = bench.size(ENTITIES, 500)
    calls = bench.size(4000, 200)
    feast = bench.peer("feast")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        isolated(
            "benchmarks.vectors:prepare", folder=folder, url=server.url, which="plain", entities=entities
        )
        ours = isolated("benchmarks.online:measure_plain", folder=folder, url=server.url, calls=calls)
        theirs = None
        if feast is not None:
            theirs = isolated(
                "feast_online:measure",
                python=feast,
                folder=f"{folder}/feast",
                port=server.port,
                rows=f"{folder}/rows.parquet",
                features=PLAIN,
                sizes=SIZES,
                calls=max(50, calls // 8),
                seed=SEED,
            ).value
    times, trip = ours.value["times"], ours.value["trip"]
    more = {"peak_memory": ours.peak_memory, "entities": entities}
    told = {"stored_bytes": ours.value["bytes"], "p99_ms": times["1"]["p99"]}
    yield at_most(
        8, "50 features, 1 row, p50", times["1"]["p50"], "ms", "one Redis GET", trip, 3, **more, **told
    )
    for size, limit in zip(SIZES, (8, None, 20), strict=True):
        if limit is None:
            continue
        cost = theirs and theirs[str(size)]["p50"]
        work = f"50 features, {size} row{'s' * (size > 1)}, p50"
        yield at_least(8, work, times[str(size)]["p50"], "ms", "Feast", cost, limit, **more)


def windowed_vector(bench: Bench) -> Iterator[Row]:
    """Measure 27 aggregates over 40 events of an entity, and over 100,000 of one."""
    from featurestore_connectors.embedded import EmbeddedServer

    entities = bench.size(WINDOWED_ENTITIES, 200)
    hot = bench.size(HOT_EVENTS, 5000)
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        for which, size in (("plain", entities), ("windowed", entities)):
            isolated(
                "benchmarks.vectors:prepare",
                folder=f"{folder}/{which}",
                url=server.url,
                which=which,
                entities=size,
                hot=hot,
            )
        found = isolated("benchmarks.online:measure_windowed", folder=folder, calls=bench.size(2000, 100))
    times = found.value
    more = {"peak_memory": found.peak_memory, "entities": entities}
    for size in SIZES:
        work = f"27 aggregates over {EVENTS} events, {size} row{'s' * (size > 1)}, p50"
        plain, ours = times[f"plain {size}"], times[f"windowed {size}"]
        yield at_most(9, work, ours["p50"], "ms", "50 plain features", plain["p50"], 2, **more)
    work = f"27 aggregates over {hot:,} events, 1 row, p50"
    usual = times["windowed 1"]["p50"]
    yield at_most(9, work, times["hot"]["p50"], "ms", f"{EVENTS} events", usual, 3, **more)


def growth(bench: Bench) -> Iterator[Point]:
    """Yield how a read's cost grows with rows, features and events."""
    from featurestore_connectors.embedded import EmbeddedServer

    entities, calls = bench.size(2000, 200), bench.size(600, 50)
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        isolated(
            "benchmarks.vectors:prepare",
            folder=f"{folder}/plain",
            url=server.url,
            which="plain",
            entities=entities,
        )
        for hot in (100, 1000, 10_000, 100_000):
            isolated(
                "benchmarks.vectors:prepare",
                folder=f"{folder}/windowed-{hot}",
                url=server.url,
                which="windowed",
                entities=200,
                hot=max(1, bench.size(hot, 100)),
            )
        for point in isolated("benchmarks.online:measure_growth", folder=folder, calls=calls).value:
            yield Point(**point)


def measure_plain(folder: str, url: str, calls: int) -> dict[str, Any]:
    """Return the milliseconds of reads of the plain vector, and of a GET of as many bytes, in turn."""
    import redis

    from featurestore import FeatureStore

    with FeatureStore(folder) as store:
        vector = store.vector("profile")
        table = _table(folder)
        _check_plain(vector, table)
        client = redis.Redis.from_url(url)
        stored = _stored_bytes(client)
        client.set("benchmark", bytes(stored))
        trips: list[float] = []
        times = {}
        for size in SIZES:
            batches = _batches(len(table), size, calls)
            taken = _alternate(
                {"ours": lambda rows: vector.get_online(rows), "trip": lambda _: client.get("benchmark")},
                batches[: max(100, calls // (1 + size // 10))],
            )
            times[str(size)] = taken["ours"]
            if size == 1:
                trips.append(taken["trip"]["p50"])
        return {"times": times, "trip": median(trips), "bytes": stored}


def measure_windowed(folder: str, calls: int) -> dict[str, Any]:
    """Return the milliseconds of reads of both vectors, in turn."""
    from featurestore import FeatureStore

    with FeatureStore(f"{folder}/plain") as plain, FeatureStore(f"{folder}/windowed") as windowed:
        first, second = plain.vector("profile"), windowed.vector("profile")
        table = _table(f"{folder}/windowed")
        entities = int(table["customer"].max()) + 1
        for customer in (HOT, 1, entities - 1):
            _check_windowed(second, table, customer)
        times = {}
        for size in SIZES:
            batches = _batches(entities - 1, size, max(60, calls // (1 + size // 10)), first=1)
            each: dict[str, Callable[[Any], Any]] = {
                f"plain {size}": lambda rows: first.get_online(rows),
                f"windowed {size}": lambda rows: second.get_online(rows),
            }
            if size == 1:
                each["hot"] = lambda _: second.get_online([{"customer": HOT}])
            times |= _alternate(each, batches)
        return times


def measure_growth(folder: str, calls: int) -> list[dict[str, Any]]:
    """Return the points of the charts of reads."""
    from featurestore import FeatureStore

    points = []

    def point(chart: str, line: str, x: float, y: float) -> None:
        points.append({"chart": chart, "line": line, "x": x, "y": y, "unit": "ms"})

    with FeatureStore(f"{folder}/plain") as plain, FeatureStore(f"{folder}/windowed-100") as windowed:
        lines = {"50 features": plain.vector("profile"), "27 aggregates": windowed.vector("profile")}
        for line, vector in lines.items():
            for size in (1, 3, 10, 30, 100):
                batches = _batches(199, size, max(30, calls // (1 + size // 10)), first=1)
                taken = _alternate({"x": lambda rows, v=vector: v.get_online(rows)}, batches)
                point("online read by rows", line, size, taken["x"]["p50"])
        for count in (1, 5, 15, 50):
            vector = plain.vector([f"features.{name}" for name in PLAIN[:count]])
            taken = _alternate({"x": lambda rows, v=vector: v.get_online(rows)}, _batches(199, 1, calls))
            point("online read by features", "1 row", count, taken["x"]["p50"])
        for count in (1, 3, 9, 27):
            vector = windowed.vector([f"features.{name}" for name in aggregate_names()[:count]])
            taken = _alternate({"x": lambda rows, v=vector: v.get_online(rows)}, _batches(199, 1, calls, 1))
            point("online read by features", "1 row, aggregates of 40 events", count, taken["x"]["p50"])
    for path in sorted(Path(folder).glob("windowed-*")):
        table = _table(str(path))
        with FeatureStore(path) as store:
            vector = store.vector("profile")
            hot = [[{"customer": HOT}]] * calls
            taken = _alternate({"x": lambda rows, v=vector: v.get_online(rows)}, hot)
        point(
            "online read by events in the windows",
            "27 aggregates, 1 row",
            int((table["customer"] == HOT).sum()),
            taken["x"]["p50"],
        )
    return points


def _alternate(each: dict[str, Callable[[Any], Any]], batches: list[Any]) -> dict[str, dict[str, float]]:
    """Return p50 and p99 in milliseconds of functions called in turn, so that all meet one machine."""
    taken: dict[str, list[float]] = {name: [] for name in each}
    for number, rows in enumerate([*batches[:20], *batches]):
        for name, function in each.items():
            began = time.perf_counter()
            function(rows)
            if number >= 20:  # the first ones warm up
                taken[name].append((time.perf_counter() - began) * 1000)
    return {name: {"p50": median(all_), "p99": percentile(all_, 0.99)} for name, all_ in taken.items()}


def _batches(entities: int, size: int, calls: int, first: int = 0) -> list[list[dict[str, Any]]]:
    """Return the rows of requests, of entities `first` on, each drawn at random."""
    drawn = np.random.default_rng(SEED).integers(first, first + entities, (calls, size))
    return [[{"customer": customer} for customer in row] for row in drawn.tolist()]


def _table(folder: str) -> Any:
    import polars as pl

    return pl.read_parquet(Path(folder) / "rows.parquet")


def _stored_bytes(client: Any) -> int:
    """Return how many bytes an entity's fields have in Redis."""
    key = next(key for key in client.scan_iter("fs:*", 1000) if key.endswith(b"+*"))
    _, value = client.hrandfield(key, 1, withvalues=True)
    return len(value)


def _check_plain(vector: Any, table: Any) -> None:
    assert vector.features == PLAIN
    expected = table.select(["customer", *PLAIN]).rows()
    for first in range(0, len(expected), 1000):
        part = expected[first : first + 1000]
        found = vector.get_online([{"customer": row[0]} for row in part])
        assert found.rows == [list(row[1:]) for row in part]
        assert all(status == "PRESENT" for row in found.status for status in row)


def _check_windowed(vector: Any, table: Any, customer: int) -> None:
    """Compare with plain loops over an entity's events."""
    assert vector.features == aggregate_names()
    found = vector.get_online([{"customer": customer}])
    own = table.filter(table["customer"] == customer).sort("at")
    times = own["at"].to_physical().to_list()
    for name, value in zip(vector.features, found.rows[0], strict=True):
        column, function, window = name.split("_")
        low, high = found.now - WINDOWS[window] * 1_000_000 + 1, found.now + 1
        values = own[column].to_list()[bisect_left(times, low) : bisect_left(times, high)]
        expected: Any = {
            "sum": lambda v: math.fsum(v),
            "avg": lambda v: math.fsum(v) / len(v) if v else None,
            "min": lambda v: min(v, default=None),
            "max": lambda v: max(v, default=None),
            "count": len,
            "last": lambda v: v[-1] if v else None,
        }[function](values)
        assert value == expected or math.isclose(value, expected, rel_tol=1e-14), (name, value, expected)


assert sum(map(len, FUNCTIONS.values())) * len(WINDOWS) == 27
