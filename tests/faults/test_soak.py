"""A stream at a steady rate: its memory and its lag stay flat, and what it applied is what was sent.

`FEATURESTORE_SOAK_MINUTES` and `FEATURESTORE_SOAK_RATE` (events per second) choose the length and the rate.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from brokers import KafkaBroker
from faults.conftest import Measured
from faults.scale import LONG
from test_stream_processes import ask, command, until
from test_stream_processes import measured as scraped

from featurestore import FeatureStore, instants
from featurestore_connectors.embedded import EmbeddedServer
from featurestore_engines.stream import pipeline, progress

needs_bytewax = pytest.mark.skipif(importlib.util.find_spec("bytewax") is None, reason="Bytewax is missing")
MINUTES = float(os.environ.get("FEATURESTORE_SOAK_MINUTES", "20" if LONG else "0.35"))
RATE = int(os.environ.get("FEATURESTORE_SOAK_RATE", "2000" if LONG else "500"))
CUSTOMERS = 20_000 if LONG else 2_000
SAMPLE_SECONDS = 5.0 if LONG else 1.0
MEGABYTE = 1024 * 1024

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: int64, customer: int64, at: timestamp, amount: int64}
stream: {topic: TOPIC}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
aggregations:
  - {column: amount, functions: [sum], windows: [7d]}
  - {functions: [count], windows: [1h, 7d]}
---
kind: FeatureVector
name: totals
features: [spending.amount_sum_7d, spending.count_7d]
"""


class Producer:
    """Sends events at a steady rate, in a thread, and remembers what they come to for each customer."""

    def __init__(self, root: Path, rate: int, customers: int) -> None:
        self.sums = np.zeros(customers, np.int64)
        self.counts = np.zeros(customers, np.int64)
        self.sent = 0
        self._root = root
        self._rate = rate
        self._rng = np.random.default_rng(7)
        self._stop = Event()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Producer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def burst(self, topic: Any, count: int) -> None:
        """Send so many events."""
        customers = self._rng.integers(0, len(self.sums), count)
        amounts = self._rng.integers(-100, 1000, count)
        at = instants.format_instant(instants.now())
        rows = zip(range(self.sent, self.sent + count), customers.tolist(), amounts.tolist(), strict=True)
        topic.append(
            [(None, json.dumps({"id": n, "customer": c, "at": at, "amount": a}).encode()) for n, c, a in rows]
        )
        np.add.at(self.sums, customers, amounts)
        np.add.at(self.counts, customers, 1)
        self.sent += count

    def _run(self) -> None:
        try:
            with FeatureStore(self._root) as store:
                topic = store.environment.stream(store.catalog.source("payments"))
                begun = time.monotonic()
                while not self._stop.wait(0.05):
                    due = int((time.monotonic() - begun) * self._rate) - self.sent
                    self.burst(topic, max(min(due, 5_000), 1))
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._error = error


def judged(store: FeatureStore, producer: Producer) -> int:
    """Compare every customer's values, and the offline rows, with what was sent; return how many."""
    plan = store.catalog.feature_set("spending")
    table = store.environment.rows_table(plan)
    snapshot = table.snapshot()
    assert snapshot is not None
    ids = table.lazy(snapshot, ["id"]).collect()["id"].sort().to_numpy()
    assert np.array_equal(ids, np.arange(producer.sent)), f"{len(ids)} rows offline, {producer.sent} sent"
    reader = store.reader("totals")
    customers = len(producer.sums)
    for first in range(0, customers, 1000):
        part = range(first, min(first + 1000, customers))
        found = reader.read([{"customer": customer} for customer in part])
        expected = [[int(producer.sums[c]), int(producer.counts[c])] for c in part]
        assert [list(row) for row in found.rows] == expected
    return customers


def make(root: Path, kafka: KafkaBroker, online: dict[str, Any]) -> Path:
    """Write the project over a topic of its own; return its folder."""
    topic = kafka.create_topic(partitions=4)
    root.mkdir(exist_ok=True)
    config = {"project": "soak", "online": online, "stream": kafka.config}
    (root / "featurestore.yaml").write_text(json.dumps(config))
    (root / "specs.yaml").write_text(SPECS.replace("TOPIC", topic))
    return root


def quantiles(before: dict[str, float], after: dict[str, float], *shares: float) -> list[float]:
    """Return quantiles of freshness between two scrapes, in seconds: the upper bounds of their buckets."""
    name = "featurestore_stream_freshness_seconds_bucket"
    bounds = [
        (float(key.rsplit('le="', 1)[1].rstrip('"}')), value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(name)
    ]
    bounds.sort()
    total = bounds[-1][1]
    return [next(bound for bound, below in bounds if below >= share * total) for share in shares]


def added(found: dict[str, float], name: str) -> float:
    """Return the sum of a metric over its labels."""
    return sum(
        value for key, value in found.items() if key.partition("{")[0] == f"featurestore_stream_{name}"
    )


@pytest.fixture
def server(start_server: Callable[..., EmbeddedServer]) -> Iterator[EmbeddedServer]:
    """A Redis of the test's own."""
    made = start_server()
    yield made
    made.kill()


@needs_bytewax
@pytest.mark.redis
@pytest.mark.kafka
def test_a_steady_stream_keeps_flat(
    tmp_path: Path, kafka: KafkaBroker, server: EmbeddedServer, measured: Measured
) -> None:
    root = make(tmp_path, kafka, {"kind": "redis", "url": server.url})
    samples: list[dict[str, float]] = []
    with FeatureStore(root) as store:
        store.apply()
        with command(root, "--workers", "2", "--listen", "127.0.0.1:0") as running:
            url = running.url
            until(lambda: ask(f"{url}/readyz")[0] == 200, "readiness", running)
            with Producer(root, RATE, CUSTOMERS) as producer:
                ends = time.monotonic() + MINUTES * 60
                while (now := time.monotonic()) < ends:
                    samples.append(scraped(url) | {"at": now, "sent": producer.sent})
                    assert running.process.poll() is None, running.said
                    Event().wait(SAMPLE_SECONDS)
            until(lambda: applied(url) >= producer.sent, "the rest to be applied", running)
            last = scraped(url)
            assert running.end() == 0, running.said
        customers = judged(store, producer)
    settled = samples[len(samples) // 3 :]  # caches and allocators have filled by then
    half = len(settled) // 2
    memory = np.array([added(sample, "resident_bytes") for sample in settled])
    lags = np.array([added(sample, "lag_events") for sample in settled])
    p50, p95, p99 = quantiles(settled[0], last, 0.5, 0.95, 0.99)
    grown = (np.median(memory[half:]) - np.median(memory[:half])) / MEGABYTE
    measured(
        f"a soak of {MINUTES:g} minutes at {RATE} events/s (bytewax, Kafka, Redis)",
        promised="memory and lag are flat; nothing is lost or counted twice",
        events=producer.sent,
        customers=customers,
        lost=0,
        doubled=0,
        freshness_p50_at_most=p50,
        freshness_p95_at_most=p95,
        freshness_p99_at_most=p99,
        lag_events_median=float(np.median(lags)),
        lag_events_max=float(lags.max()),
        memory_mb_first_half=round(float(np.median(memory[:half])) / MEGABYTE),
        memory_mb_second_half=round(float(np.median(memory[half:])) / MEGABYTE),
    )
    assert grown < 0.15 * np.median(memory[:half]) / MEGABYTE, f"memory grew by {grown:.0f} MB"
    assert np.median(lags[half:]) <= np.median(lags[:half]) + 2 * RATE, "the lag grows"


def applied(url: str) -> float:
    return added(scraped(url), "applied_total")


@needs_bytewax
@pytest.mark.redis
@pytest.mark.kafka
def test_a_slow_redis_holds_the_stream_back_and_the_broker_keeps_the_rest(
    tmp_path: Path, kafka: KafkaBroker, server: EmbeddedServer, measured: Measured
) -> None:
    """Redis answers a tenth of the time: what is in flight stays bounded, the lag rises, and falls again."""
    redis = pytest.importorskip("redis")
    root = make(tmp_path, kafka, {"kind": "redis", "url": server.url, "timeout": "20s"})
    count = 1_000_000 if LONG else 150_000
    in_flight, memory, lags = [], [], []
    with FeatureStore(root) as store:
        store.apply()
        producer = Producer(root, RATE, CUSTOMERS)
        topic = store.environment.stream(store.catalog.source("payments"))
        with command(root, "--workers", "2", "--listen", "127.0.0.1:0") as running:
            url = running.url
            producer.burst(topic, 5_000)
            until(lambda: applied(url) >= 5_000, "the first events", running)
            stop = Event()

            def slow() -> None:
                with redis.Redis.from_url(server.url) as client:
                    while not stop.wait(0.02):
                        client.execute_command("CLIENT", "PAUSE", "180", "ALL")
                        stop.wait(0.18)

            slowing = Thread(target=slow)
            slowing.start()
            try:
                while producer.sent < count:
                    producer.burst(topic, 10_000)
                    note(url, in_flight, memory, lags)
                for _ in range(20 if LONG else 6):
                    note(url, in_flight, memory, lags)
                    assert running.process.poll() is None, running.said
                    Event().wait(1.0)
            finally:
                stop.set()
                slowing.join()
            lag_at_most = max(lags)
            until(lambda: applied(url) >= producer.sent, "the rest to be applied", running)
            until(lambda: added(scraped(url), "lag_events") == 0, "the lag to fall", running)
            assert running.end() == 0, running.said
        judged(store, producer)
    measured(
        "Redis answers a tenth of the time (bytewax, Kafka)",
        promised="the records in flight are bounded, the broker keeps the rest; nothing is lost or doubled",
        events=producer.sent,
        lost=0,
        doubled=0,
        in_flight_records_max=max(in_flight),
        lag_events_max=lag_at_most,
        memory_mb_first=round(memory[0] / MEGABYTE),
        memory_mb_max=round(max(memory) / MEGABYTE),
    )
    # and the batch that each partition may read
    assert max(in_flight) <= progress.IN_FLIGHT_RECORDS + pipeline.MAX_RECORDS
    assert lag_at_most > 0


def note(url: str, in_flight: list[float], memory: list[float], lags: list[float]) -> None:
    found = scraped(url)
    in_flight.append(added(found, "in_flight_records"))
    memory.append(added(found, "resident_bytes"))
    lags.append(added(found, "lag_events"))
