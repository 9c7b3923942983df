"""Work 10: 50 features over HTTP, one server process, 16 connections, beside Feast's server."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Bench, Point, Row, at_least, at_most, isolated
from benchmarks.online import ENTITIES, _batches, _table
from benchmarks.vectors import PLAIN

CONNECTIONS = 16
LIMITS = {1: 12, 10: 20, 100: 50}
BODIES = 400
SECONDS = 8.0


def requests(bench: Bench) -> Iterator[Row]:
    """Measure requests per second of both servers, one after the other, on the same Redis."""
    from featurestore_connectors.embedded import EmbeddedServer

    entities, seconds = bench.size(ENTITIES, 500), max(1.0, SECONDS * min(1.0, bench.scale))
    feast = bench.peer("feast")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        isolated(
            "benchmarks.vectors:prepare", folder=folder, url=server.url, which="plain", entities=entities
        )
        ours = measure(folder, tuple(LIMITS), seconds)
        theirs = None
        if feast is not None:
            isolated(
                "feast_online:prepare",
                python=feast,
                folder=f"{folder}/feast",
                port=server.port,
                rows=f"{folder}/rows.parquet",
                features=PLAIN,
            )
            theirs = measure_feast(feast, folder, tuple(LIMITS), seconds)
    for size, limit in LIMITS.items():
        mine, other = ours[size], theirs and theirs[size]
        work = f"50 features, {size} row{'s' * (size > 1)}"
        told = {"p50_ms": mine["p50"], "p99_ms": mine["p99"], "client_cpu": mine["client_cpu"]}
        if other:
            told |= {"feast_p50_ms": other["p50"], "feast_p99_ms": other["p99"]}
        rate = other and other["rate"]
        yield at_least(10, work, mine["rate"], "requests/s", "Feast's server", rate, limit, **told)
        yield at_most(10, f"{work}, p99", mine["p99"], "ms", "its p50", mine["p50"], 10)


def growth(bench: Bench) -> Iterator[Point]:
    """Yield how many requests a second are answered, by rows and by connections."""
    from featurestore_connectors.embedded import EmbeddedServer

    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        isolated("benchmarks.vectors:prepare", folder=folder, url=server.url, which="plain", entities=2000)
        seconds = max(0.5, 3.0 * min(1.0, bench.scale))
        for size, found in measure(folder, (1, 3, 10, 30, 100), seconds).items():
            yield Point("HTTP by rows", "16 connections", size, found["rate"], "requests/s")
        for connections in (1, 2, 4, 8, 32, 64):
            [found] = measure(folder, (1,), seconds, connections).values()
            yield Point("HTTP by connections", "1 row", connections, found["rate"], "requests/s")


def measure(
    folder: str, sizes: Sequence[int], seconds: float, connections: int = CONNECTIONS
) -> dict[int, dict[str, Any]]:
    """Return what the clients measured of `featurestore serve`, by number of rows."""
    from benchmarks.peers.starts import serving

    table = _table(folder)
    rows = {row[0]: list(row[1:]) for row in table.select(["customer", *PLAIN]).iter_rows()}
    words = [sys.executable, "-m", "featurestore.cli", "serve", "--port"]
    result = {}
    with serving(words, Path(folder), "/readyz") as port:
        for size in sizes:
            asked = _batches(len(table), size, BODIES)
            bodies = [json.dumps({"vector": "profile", "rows": each}) for each in asked]
            found = _load(port, "/v1/online-features", bodies, connections, seconds)
            answer = json.loads(found.pop("answer"))
            assert answer["columns"] == PLAIN
            assert answer["rows"] in [[rows[row["customer"]] for row in each] for each in asked[:connections]]
            result[size] = found
    return result


def measure_feast(
    python: Path, folder: str, sizes: Sequence[int], seconds: float
) -> dict[int, dict[str, Any]]:
    """Return what the clients measured of `feast serve`: one worker, not restarted, no access log."""
    from benchmarks.peers.starts import serving

    table = _table(folder)
    words = [str(python.with_name("feast")), "serve", "--no-access-log", "--registry_ttl_sec", "100000"]
    words += ["--max-requests", "100000000", "--port"]
    rows = {row[0]: list(row[1:]) for row in table.select(["customer", *PLAIN]).iter_rows()}
    result = {}
    with serving(words, Path(folder) / "feast", "/health") as port:
        for size in sizes:
            asked = _batches(len(table), size, BODIES)
            bodies = [
                json.dumps(
                    {"feature_service": "profile", "entities": {"customer": [r["customer"] for r in each]}}
                )
                for each in asked
            ]
            found = _load(port, "/get-online-features", bodies, CONNECTIONS, seconds)
            answer = json.loads(found.pop("answer"))
            columns = dict(
                zip(
                    answer["metadata"]["feature_names"],
                    (c["values"] for c in answer["results"]),
                    strict=True,
                )
            )
            got = [list(row) for row in zip(*(columns[name] for name in PLAIN), strict=True)]
            assert got in [[rows[row["customer"]] for row in each] for each in asked[:CONNECTIONS]]
            result[size] = found
    return result


def _load(port: int, path: str, bodies: list[str], connections: int, seconds: float) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(bodies, file)
        file.flush()
        found = isolated(
            "benchmarks.peers.load:run",
            port=port,
            path=path,
            bodies=file.name,
            connections=connections,
            seconds=seconds,
            warm=max(0.3, seconds / 8),
        )
    return dict(found.value)
