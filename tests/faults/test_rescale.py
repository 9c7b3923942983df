"""Partitions, workers and processes are added and removed while events flow: nothing is lost or doubled."""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
import shop
from brokers import KafkaBroker
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from faults.conftest import Measured
from faults.scale import LONG
from shop import Row
from streams import await_no_lag, check, make_project, send, sent, streaming
from test_stream_processes import command, measured_lag, until

from featurestore import FeatureStore
from featurestore_connectors.embedded import EmbeddedServer
from featurestore_engines.stream import pipeline

needs_bytewax = pytest.mark.skipif(importlib.util.find_spec("bytewax") is None, reason="Bytewax is missing")
ENGINES = ["local", pytest.param("bytewax", marks=needs_bytewax)]
EVENTS = 4000 if LONG else 500


class Flow:
    """Events that come all the while, in a thread: some at a time, of both topics."""

    def __init__(self, root: Path, seed: int) -> None:
        self._paid, self._visited = shop.make_log(seed, EVENTS)
        self._root = root
        self._rng = random.Random(seed)
        self._hurry = Event()
        self._error: BaseException | None = None
        self.sent = 0
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Send the rest at once."""
        self._hurry.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def await_more(self, count: int = 30) -> None:
        """Return once so many more events were sent, or all."""
        wanted = self.sent + count
        until(lambda: self.sent >= wanted or not self._thread.is_alive(), "events")

    def _run(self) -> None:
        try:
            with FeatureStore(self._root) as store:
                queues: list[tuple[str, list[Row]]] = [("payments", self._paid), ("visits", self._visited)]
                while any(rows for _, rows in queues):
                    for source, rows in queues:
                        count = len(rows) if self._hurry.is_set() else self._rng.randint(1, 12)
                        send(store, source, rows[:count])
                        self.sent += len(rows[:count])
                        del rows[:count]
                    self._hurry.wait(0.1)
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._error = error


@pytest.fixture
def online(start_server: Callable[..., EmbeddedServer]) -> Iterator[dict[str, str]]:
    """A Redis of the test's own."""
    server = start_server()
    yield {"kind": "redis", "url": server.url}
    server.kill()


@pytest.mark.redis
@pytest.mark.kafka
@pytest.mark.parametrize("engine", ENGINES)
def test_partitions_that_are_added_while_events_flow_are_read(
    engine: str,
    tmp_path: Path,
    kafka: KafkaBroker,
    online: dict[str, str],
    measured: Measured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "FLUSH_SECONDS", 0.5)
    topics = {name: kafka.create_topic(partitions=2) for name in ("payments", "visits")}
    root = make_project(tmp_path, online, kafka.config)
    specs = (root / "specs.yaml").read_text()
    for name, topic in topics.items():
        specs = specs.replace(f"topic: {name}", f"topic: {topic}")
    (root / "specs.yaml").write_text(specs)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    with FeatureStore(root) as store:
        store.apply()
        with streaming(root, engine) as running, Flow(root, 31) as flow:
            running.await_records(20)
            for count in (3, 6):
                grown = admin.create_partitions([NewPartitions(topic, count) for topic in topics.values()])
                for done in grown.values():
                    done.result(30)
                begun = time.monotonic()
                flow.await_more()
            flow.finish()
            later, _ = shop.make_log(33, 120)
            send(store, "payments", later)  # by a producer that knows the new partitions from the first on
            streamed = sum(len(sent(store, name)) for name in topics)
            await_no_lag(store)  # while the stream runs: nobody else applies them
            seconds = time.monotonic() - begun
        payments = store.environment.stream(store.catalog.source("payments"))
        behind = {name: end for name, end in payments.ends().items() if end}
        assert any(name.endswith("/5") for name in behind), "nothing came by the new partitions"
        compared = check(store)
    measured(
        f"partitions added to topics, 2 → 3 → 6, while events flow ({engine}, Kafka)",
        promised="the stream notices and starts itself anew; nothing is lost or counted twice",
        events=streamed,
        lost=0,
        doubled=0,
        values=compared,
        seconds_until_all_was_applied=round(seconds, 1),
    )


@needs_bytewax
@pytest.mark.redis
@pytest.mark.parametrize(
    ("option", "numbers"),
    [("--workers", [1, 3, 2]), ("--processes", [1, 2, 1] if not LONG else [1, 3, 2, 1])],
)
def test_workers_and_processes_change_while_events_flow(
    option: str, numbers: list[int], tmp_path: Path, online: dict[str, str], measured: Measured
) -> None:
    root = make_project(tmp_path, online)
    with FeatureStore(root) as store:
        store.apply()
        stops = []
        with Flow(root, 32) as flow:
            for number in numbers:
                flow.await_more()
                with command(root, option, str(number), "--listen", "127.0.0.1:0") as running:
                    url = running.url
                    until(lambda url=url: measured_lag(url) < float("inf"), "the stream to run", running)
                    flow.await_more()
                    if number == numbers[-1]:
                        flow.finish()
                        until(lambda url=url: measured_lag(url) == 0, "the rest", running)
                    begun = time.monotonic()
                    assert running.end() == 0, running.said
                    stops.append(time.monotonic() - begun)
        store.drain()  # the metric that told the end may have been of before the last events
        compared = check(store)
        events = sum(len(sent(store, name)) for name in ("payments", "visits"))
    measured(
        f"{option[2:]} {' → '.join(map(str, numbers))} while events flow (bytewax, the log)",
        promised="SIGTERM drains and commits with status 0; the next one goes on; nothing is lost or doubled",
        events=events,
        lost=0,
        doubled=0,
        values=compared,
        longest_stop_seconds=round(max(stops), 1),
    )
