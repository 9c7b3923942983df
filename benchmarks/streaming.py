"""Works 6 and 7: from a Kafka topic through windows into Redis and offline rows, and how fresh that is.

Work 6 lets a stream catch up with a topic that is full. Work 7 pushes at a steady rate, and now and then
an event of which a reader waits until the online vector has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, SEED, Bench, Point, Row, absolute, at_least, isolated, percentile

EVENTS = 5_000_000
ENTITIES = 20_000
WINDOWS = ["1h", "6h", "24h"]
FUNCTIONS = ["sum", "count", "avg", "max"]
PARTITIONS = 4
SPAN = 24 * 3600 * 1_000_000
STOREY_EVENTS = 40_000
CHECKED = 100
"""Entities whose vectors are computed by hand, from the events, and compared."""

RATE = 10_000
PUSH_EVENTS = 100
PROBES_PER_SECOND = 20
WARM = 20
"""Probes before those that are counted: a process that serves has its connections and its code."""
FRESH_SECONDS = 30.0
TOPIC = "payments"

SPECS = f"""
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {{id: string, customer: int64, at: timestamp, amount: float64}}
stream: {{topic: {TOPIC}}}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
aggregations:
  - {{column: amount, functions: [{", ".join(FUNCTIONS)}], windows: [{", ".join(WINDOWS)}]}}
---
kind: FeatureVector
name: risk
features: [spend.*]
"""


def throughput(bench: Bench) -> Iterator[Row]:
    """Compare how many events per second one worker applies with storey's rate, in memory."""
    count = bench.size(EVENTS, 20_000)
    isolated("benchmarks.streaming:compile_once")
    storey, rate = bench.peer("storey"), None
    if storey is not None:
        events = bench.size(STOREY_EVENTS, 2_000)
        entities = max(1, events * ENTITIES // EVENTS)  # as many events of each as at full size
        found = isolated(
            "storey_stream:measure", python=storey,
            events=events, entities=entities, windows=WINDOWS, functions=FUNCTIONS, seed=SEED,
        ).value  # fmt: skip
        rate = events / found["seconds"]
    for skew, share in (("uniform", 1.0), ("Zipf", 0.2)):
        events = max(20_000, round(count * share))
        work = f"stream of {events:,} events, {skew} entities, one worker"
        found = caught_up(events, skew)
        ours, memory = events / found.value["seconds"], found.peak_memory
        more = {**found.value, "storey_events": bench.size(STOREY_EVENTS, 2_000)}
        yield absolute(6, work, ours, "events/s", 100_000, peak_memory=memory, **more)
        yield at_least(6, work, ours, "events/s", "storey, in memory", rate, 25, peak_memory=memory)


def compile_once() -> None:
    """Compile what a machine compiles once, with its first stream, and then has on the disk."""
    from featurestore.online.leaves import kernel

    kernel().result()


def caught_up(events: int, skew: str, entities: int = ENTITIES, windows: int = len(WINDOWS)) -> Any:
    """Return what a stream took for a topic of events, in a process of its own."""
    with servers() as (kafka, redis), tempfile.TemporaryDirectory() as folder:
        end = time.time_ns() // 1000
        made = {"count": events, "skew": skew, "end": end, "entities": entities}
        isolated("benchmarks.streaming:produce", brokers=kafka, **made)
        return isolated(
            "benchmarks.streaming:catch_up",
            folder=folder, brokers=kafka, redis=redis, windows=WINDOWS[:windows], **made,
        )  # fmt: skip


def freshness(bench: Bench) -> Iterator[Row]:
    """Measure how long after a push begins its event is part of what a reader is answered."""
    seconds = max(3.0, FRESH_SECONDS * min(bench.scale, 1.0))
    isolated("benchmarks.streaming:compile_once")
    taken = fresh(RATE, seconds)
    work = f"push until servable at {RATE:,} events/s"
    for share, limit in ((0.5, 50), (0.99, 250)):
        name = f"{work}, p{share * 100:.0f}"
        milliseconds = percentile(taken["milliseconds"], share)
        yield absolute(7, name, milliseconds, "ms", limit, rate=taken["rate"], stream_cores=taken["cores"])


def growth(bench: Bench) -> Iterator[Point]:
    """Yield how the rate changes with events and entities, and freshness with the rate."""
    for share in (0.01, 0.1, 0.4):
        events = bench.size(round(EVENTS * share), 5_000)
        found = caught_up(events, "uniform").value
        yield Point("stream, events", "20,000 entities", events, events / found["seconds"], "events/s")
    events = bench.size(500_000, 5_000)
    for entities in (200, 2_000, 200_000):
        found = caught_up(events, "uniform", entities).value
        line = f"{events:,} events"
        yield Point("stream, entities", line, entities, events / found["seconds"], "events/s")
    for rate in (100, 1_000, 10_000):
        taken = fresh(rate, max(3.0, 10 * min(bench.scale, 1.0)))["milliseconds"]
        for share in (0.5, 0.99):
            y = percentile(taken, share)
            yield Point("push until servable", f"p{share * 100:.0f}", rate, y, "ms")


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Start a Kafka node with the topic, and a Redis; yield their addresses."""
    sys.path.append(str(ROOT / "tests"))
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
    from kafka_server import KafkaServer

    from featurestore_connectors.embedded import EmbeddedServer

    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as redis:
        kafka = KafkaServer(Path(folder) / "kafka").start()
        try:
            admin = AdminClient({"bootstrap.servers": kafka.address})
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
            yield kafka.address, redis.url
        finally:
            kafka.kill()


def project(folder: str, brokers: str, redis: str, windows: list[str]) -> Any:
    """Return the applied store of a project with a stream."""
    from featurestore import FeatureStore

    root = Path(folder)
    stream = f"{{kind: kafka, brokers: '{brokers}'}}"
    (root / "featurestore.yaml").write_text(
        f"project: shop\nonline: {{kind: redis, url: '{redis}'}}\nstream: {stream}\n"
    )
    (root / "specs.yaml").write_text(SPECS.replace(", ".join(WINDOWS), ", ".join(windows)))
    store = FeatureStore(root)
    store.apply()
    return store


def events_of(count: int, skew: str, end: int, entities: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return customers, event times (microseconds, ascending over a day up to `end`) and amounts."""
    random = np.random.default_rng(SEED)
    if skew == "uniform":
        customers = random.integers(0, entities, count)
    else:
        weights = 1 / np.arange(1, entities + 1)
        customers = random.choice(entities, count, p=weights / weights.sum())
    times = end - SPAN + np.sort(random.integers(0, SPAN, count)) + 1
    return customers, times, random.integers(0, 100_000, count) / 100


def payloads(customers: np.ndarray, times: np.ndarray, amounts: np.ndarray) -> Iterator[bytes]:
    """Yield events as JSON, as a payment system would write them."""
    texts = np.datetime_as_string(times.astype("M8[us]"), "us").tolist()
    columns = zip(customers.tolist(), texts, amounts.tolist(), strict=True)
    for number, (customer, at, amount) in enumerate(columns):
        yield b'{"id":"p%012d","customer":%d,"at":"%sZ","amount":%.2f}' % (
            number, customer, at.encode(), amount,
        )  # fmt: skip


def produce(brokers: str, count: int, skew: str, end: int, entities: int) -> None:
    """Fill the topic."""
    from confluent_kafka import Producer

    options: dict[str, Any] = {
        "bootstrap.servers": brokers, "linger.ms": 20, "compression.type": "lz4",
        "batch.num.messages": 10_000, "queue.buffering.max.messages": 1_000_000,
    }  # fmt: skip
    producer = Producer(options)
    for number, payload in enumerate(payloads(*events_of(count, skew, end, entities))):
        while True:
            try:
                producer.produce(TOPIC, payload, partition=number // 100 % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush()


def catch_up(
    folder: str,
    brokers: str,
    redis: str,
    windows: list[str],
    count: int,
    skew: str,
    end: int,
    entities: int,
) -> dict[str, float]:
    """Return the seconds from the start of a stream until all is online, and until it is offline too.

    Both stores are then compared with what the events give by hand.
    """
    stop, at = threading.Event(), {}

    def report(counts: dict[str, dict[str, int]]) -> None:
        applied = counts.get("payments", {}).get("applied", 0)
        at["online"] = time.perf_counter()
        if applied >= count:
            stop.set()

    with project(folder, brokers, redis, windows) as store:
        began, worked = time.perf_counter(), time.process_time()
        counts = store.stream(engine="bytewax", workers=1, stop=stop, report=report)["payments"]
        took, worked = time.perf_counter() - began, time.process_time() - worked
        assert counts["applied"] == counts["records"] == count, counts
        check(store, windows, *events_of(count, skew, end, entities), end)
        return {"seconds": took, "online_seconds": at["online"] - began, "processor_seconds": worked}


def check(
    store: Any, windows: list[str], customers: np.ndarray, times: np.ndarray, amounts: np.ndarray, end: int
) -> None:
    """Raise AssertionError where the stores do not have what the events give."""
    plan = next(iter(store.catalog.live_sets()))
    table = store.environment.rows_table(plan)
    rows = table.lazy(table.snapshot(), ["customer", "amount"]).collect()
    assert rows.height == len(times), rows.height
    assert np.bincount(rows["customer"]).tolist() == np.bincount(customers).tolist()
    chosen = np.unique(customers[:: max(1, len(customers) // CHECKED)])[:CHECKED].tolist()
    as_of = datetime.fromtimestamp(end / 1e6, UTC)
    answers = store.get_online_features("risk", [{"customer": c} for c in chosen], as_of=as_of).to_dicts()
    for customer, answer in zip(chosen, answers, strict=True):
        mine = customers == customer
        for window in windows:
            within = amounts[mine & (times > end - int(window[:-1]) * 3600 * 1_000_000)]
            total, size = float(within.sum()), len(within)
            expected = {"sum": total, "count": size, "avg": (size and total / size) or None}
            expected["max"] = float(within.max()) if size else None
            for function, value in expected.items():
                found = answer[f"amount_{function}_{window}"]
                same = found == value or abs(found - value) <= 1e-9 * max(1, total)
                assert same, (customer, window, function, found, value)


def fresh(rate: int, seconds: float) -> dict[str, Any]:
    """Return how long each probe waited, at a rate of pushes, and the cores that the stream took."""
    with servers() as (kafka, redis), tempfile.TemporaryDirectory() as folder:
        project(folder, kafka, redis, WINDOWS).close()
        command = [sys.executable, "-m", "featurestore.cli", "stream", "--workers", "1"]
        stream = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        pusher = None
        try:
            prober = {"folder": folder, "seconds": seconds}
            isolated("benchmarks.streaming:probe", folder=folder, seconds=1.0)  # until the stream is there
            code = "from benchmarks.streaming import push_steadily; import sys, json;"
            code += "push_steadily(**json.loads(sys.argv[1]))"
            told = json.dumps({"folder": folder, "rate": rate, "seconds": seconds + 10})
            command = [sys.executable, "-c", code, told]
            pusher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            time.sleep(5.0)
            before = processor_seconds(stream.pid)
            began = time.monotonic()
            found = isolated("benchmarks.streaming:probe", **prober).value
            cores = (processor_seconds(stream.pid) - before) / (time.monotonic() - began)
            pushed = float(pusher.communicate()[0])
            return {"milliseconds": found, "cores": cores, "rate": pushed}
        finally:
            for process in (stream, pusher):
                if process is not None:
                    process.kill()
                    process.wait()


def processor_seconds(process: int) -> float:
    """Return the processor's seconds that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def push_steadily(folder: str, rate: int, seconds: float) -> None:
    """Push at a rate, a hundred events at a time; print the rate that was reached."""
    from featurestore import FeatureStore

    each = min(PUSH_EVENTS, max(1, rate // 100))
    customers = np.random.default_rng(SEED).integers(0, ENTITIES, 1_000_000)
    with FeatureStore(folder) as store:
        began, number = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            now = np.full(each, time.time_ns() // 1000)
            some = customers[np.arange(number, number + each) % len(customers)]
            lines = b"\n".join(payloads(some, now, now % 10_000 / 100))
            lines = lines.replace(b'"p', b'"p%d-' % number)
            assert len(store.push("payments", lines).accepted) == each
            number += each
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        print(number / (time.monotonic() - began))


def probe(folder: str, seconds: float) -> list[float]:
    """Return how many milliseconds each pushed event took until the vector of its entity had it."""
    from featurestore import FeatureStore

    with FeatureStore(folder) as store:
        vector = store.vector("risk")
        start = time.time_ns() // 1000

        def wait_for(customer: int) -> float:
            pushed = time.perf_counter()
            at = datetime.now(UTC).isoformat()
            event = {"id": f"probe-{customer}", "customer": customer, "at": at, "amount": 1.0}
            assert store.push("payments", [event]).accepted
            while vector.get_online([{"customer": customer}]).to_dicts()[0]["amount_count_1h"] != 1:
                if time.perf_counter() - pushed > 60:
                    raise RuntimeError("a pushed event does not become servable")
                time.sleep(0.001)
            return 1000 * (time.perf_counter() - pushed)

        for number in range(WARM):
            wait_for(start - number)
        began = time.monotonic()
        taken: list[float] = []
        while time.monotonic() - began < seconds:
            time.sleep(max(0.0, began + len(taken) / PROBES_PER_SECOND - time.monotonic()))
            taken.append(wait_for(start + 1 + len(taken)))
    return taken
