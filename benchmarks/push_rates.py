"""Push: events per second into the log, and how long until they are servable with a stream beside it.

python benchmarks/push.py [EVENTS] [PUSHES]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: string, customer: int64, at: timestamp, amount: float64, shop: string}
stream: {topic: payments, options: {partitions: 4}}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
aggregations:
  - {column: amount, functions: [sum, count, max], windows: [1h, 1d]}
---
kind: FeatureVector
name: risk
features: [spend.*]
"""
PUSHES_PER_SECOND = 20


def project(folder: Path, online: str) -> FeatureStore:
    """Return the applied store of a project."""
    folder.mkdir()
    (folder / "featurestore.yaml").write_text(f"project: shop\nonline: {online}\nstream: {{kind: log}}\n")
    (folder / "specs.yaml").write_text(SPECS)
    store = FeatureStore(folder)
    store.apply()
    return store


def payment(number: int) -> dict[str, Any]:
    """Return an event of now."""
    return {
        "id": f"p{number}",
        "customer": number % 10_000,
        "at": datetime.now(UTC),
        "amount": number % 97 / 10,
        "shop": "abc"[number % 3],
    }


def throughput(store: FeatureStore, count: int) -> None:
    """Print events per second of each kind of input."""
    events = [payment(number) for number in range(count)]
    kinds: dict[str, Any] = {
        "dictionaries": events,
        "JSON lines": b"\n".join(map(msgspec.json.encode, events)),
        "Polars frame": pl.DataFrame(events),
    }
    for name, given in kinds.items():
        start, worked = time.perf_counter(), time.process_time()
        report = store.push("payments", given)
        took, worked = time.perf_counter() - start, time.process_time() - worked
        assert len(report.accepted) == count
        print(f"  {name:<14} {count / took:>9,.0f} events/s, {count / worked:>9,.0f} per second of processor")
    start = time.perf_counter()
    for number in range(200):
        store.push("payments", [payment(number)])
    print(f"  one at a time  {200 / (time.perf_counter() - start):>9,.0f} events/s, durable")


def freshness(store: FeatureStore, pushes: int) -> None:
    """Print how long a push of one event waits until it is servable, a local stream running."""
    stop = threading.Event()
    stream = threading.Thread(target=lambda: store.stream(engine="local", stop=stop))
    stream.start()
    try:
        for number in range(20):
            assert store.push("payments", [payment(number)], wait=30).servable
        took = []
        due = time.perf_counter()
        for number in range(pushes):
            due += 1 / PUSHES_PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            start = time.perf_counter()
            assert store.push("payments", [payment(number)], wait=30).servable
            took.append(1000 * (time.perf_counter() - start))
    finally:
        stop.set()
        stream.join()
    took.sort()
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    print(f"  push until servable: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {took[-1]:.1f} ms")


def main() -> None:
    """Run both."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    pushes = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        with project(Path(folder) / "throughput", "{kind: sqlite}") as store:
            print(f"{count:,} events into the log:")
            throughput(store, count)
        for kind, online in {
            "sqlite": "{kind: sqlite}",
            "redis": f"{{kind: redis, url: '{server.url}'}}",
        }.items():
            with project(Path(folder) / kind, online) as store:
                print(f"One event {PUSHES_PER_SECOND} times a second, online store {kind}:")
                freshness(store, pushes)


if __name__ == "__main__":
    main()
