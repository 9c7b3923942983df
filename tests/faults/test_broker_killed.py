"""A real Kafka broker is killed and started again while a stream reads and producers push."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import shop
from brokers import KafkaBroker, StartKafka
from faults.conftest import Measured
from faults.scale import LONG
from faults.test_redis_killed import caught_up
from faults.worker import Worker, working
from kafka_server import KafkaServer
from shop import Row
from streams import check, lag, make_project, send

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable

pytestmark = pytest.mark.kafka

KILLS = 12 if LONG else 2
_AWAY_SECONDS = 4.0  # longer than `unavailable_after`


def prepare(tmp_path: Path, server: KafkaServer) -> tuple[Path, dict[str, str]]:
    """Return a project on topics of its own, of two partitions each, and the topics' names by source."""
    broker = KafkaBroker(server.address, is_mock=False)
    names = {name: broker.create_topic(partitions=2) for name in ("payments", "visits")}
    stream = {"kind": "kafka", "brokers": server.address, "unavailable_after": "3s", "options": {}}
    root = make_project(tmp_path, {"kind": "sqlite"}, stream)
    specs = (root / "specs.yaml").read_text()
    for name, topic in names.items():
        specs = specs.replace(f"topic: {name}", f"topic: {topic}")
    (root / "specs.yaml").write_text(specs)
    return root, names


class Producer:
    """Pushes rows in a thread, a few at a time; what is not acknowledged is pushed again."""

    def __init__(self, root: Path, rows: Sequence[Row]) -> None:
        self.acknowledged: list[tuple[str, int]] = []
        self.refusals = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(root, list(rows)))
        self._thread.start()

    def _run(self, root: Path, rows: list[Row]) -> None:
        try:
            with FeatureStore(root) as store:
                while rows:
                    messages = [shop.message("payments", row) for row in rows[:5]]
                    try:
                        report = store.push("payments", messages)
                    except StoreUnavailable:
                        self.refusals += 1
                        continue
                    assert not report.refused
                    self.acknowledged += [(p["partition"], p["sequence"]) for p in report.accepted]
                    del rows[:5]
        except BaseException as error:  # noqa: BLE001 - raised by `join`
            self._failure = error

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def everything(store: FeatureStore) -> set[tuple[str, int]]:
    """Return the places of all records in the payments' topic."""
    topic = store.environment.stream(store.catalog.source("payments"))
    found = set()
    for partition in topic.partitions():
        reader = topic.reader(partition, None)
        reached, end = 0, reader.end()
        while reached < end:
            batch = reader.poll(10_000, 1.0)
            if batch is not None:
                reached = batch.next_sequence
                found |= {(partition, record.sequence) for record in batch.records}
        reader.close()
    return found


def wait(condition: Callable[[], object], worker: Worker, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert worker.poll() is None, worker.log
        assert time.monotonic() < deadline, worker.log
        time.sleep(0.05)


def test_killed_at_random_moments(tmp_path: Path, start_kafka: StartKafka, measured: Measured) -> None:
    rng = random.Random(1)
    server = start_kafka()
    paid, visited = shop.make_log(51, KILLS * 60)
    root, _ = prepare(tmp_path, server)
    with FeatureStore(root) as store:
        store.apply()
        send(store, "visits", visited)
        with working(root, "local") as stream:
            caught_up(store)
            producer = Producer(root, paid)
            for number in range(KILLS):
                reached = len(producer.acknowledged)
                wait(lambda: len(producer.acknowledged) > reached or producer.is_done, stream)  # noqa: B023
                time.sleep(rng.uniform(0.0, 0.5))  # a random moment
                server.kill()
                if number % 2:  # the stream meets it within librdkafka's own patience, and beyond
                    time.sleep(_AWAY_SECONDS)
                server.start()
            producer.join()
            caught_up(store)
            stream.stop()
        store.drain()
        assert lag(store) == 0
        assert set(producer.acknowledged) <= everything(store)
        compared = check(store, seed=51)
        records = len(everything(store))
    server.stop()
    measured(
        "Kafka broker killed (kill -9)",
        promised="the stream goes on by itself; what push acknowledged is there; nothing lost or doubled",
        kills=KILLS,
        acknowledged=len(producer.acknowledged),
        pushes_refused=producer.refusals,
        records=records,
        times_unavailable=stream.log.count("Trying again"),
        values_compared=compared,
        wrong=0,
    )


@pytest.mark.parametrize("more", [0, 60])
def test_a_broker_that_lost_what_it_had_acknowledged_is_an_operators_error(
    more: int, tmp_path: Path, start_kafka: StartKafka, measured: Measured
) -> None:
    """Its last segment is cut while it is down, as a disk that lied about a sync does; others push at once.

    The records at those places are others now: the stream ends and says so, it does not read on over them.
    """
    server = start_kafka()
    paid, visited = shop.make_log(52, 80)
    root, names = prepare(tmp_path, server)
    with FeatureStore(root) as store:
        store.apply()
        send(store, "visits", visited)
        worker = Worker(root, "local")
        for row in paid:  # batches of one record, so that a cut takes some
            send(store, "payments", [row])
        caught_up(store)
        if more:  # the stream is frozen until others have pushed: it cannot see the end that went back
            os.kill(worker.pid, signal.SIGSTOP)
        server.kill()
        cut = 0
        for number in range(2):
            [segment] = server.data.glob(f"{names['payments']}-{number}/*.log")
            with segment.open("r+b") as file:
                cut += 700
                file.truncate(segment.stat().st_size - 700)
        server.start()
        if more:
            with pytest.raises(StoreUnavailable, match="not acknowledged"):
                send(store, "payments", paid[:1])  # the producer's own sequence has a gap
            for row in paid[:more]:  # each to any partition: what comes in one batch goes to one
                send(store, "payments", [row])
            os.kill(worker.pid, signal.SIGCONT)
        assert worker.wait() == 1
        assert "truncated" in worker.log
    server.kill()
    measured(
        "Kafka broker comes back without records that it had acknowledged"
        + (" and with others in their place" if more else ""),
        promised="the stream ends with an operator's error",
        bytes_cut=cut,
        told=worker.log.strip().splitlines()[-1],
    )
