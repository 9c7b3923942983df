"""Poison: what is no event costs only itself, never the stream, its memory, or a neighbour.

After each, what is good is right by the oracle, online and offline, and what is not is a dead letter with its
code. A topic made anew ends the stream with an operator's error, until it is accepted.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import shop
from brokers import KafkaBroker, StartKafka
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from faults.conftest import Measured
from faults.scale import LONG
from parity import write_project
from streams import check, lag, send, streaming

from featurestore import FeatureStore, tables
from featurestore.errors import OperatorError
from featurestore.instants import format_instant, now

pytestmark = pytest.mark.kafka
_LOGGER = logging.getLogger("tests.kafka")
_numbers = itertools.count()
SAMPLE = 12 if LONG else 3
MEBIBYTE = 1024 * 1024
ENGINES = [
    "local",
    pytest.param("bytewax", marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="no wheel")),
]


@pytest.fixture(scope="module")
def large_broker(start_kafka: StartKafka) -> KafkaBroker:
    """A real broker that takes messages of 60 MB."""
    limits = {"message.max.bytes": "60000000", "replica.fetch.max.bytes": "60000000"}
    return KafkaBroker(start_kafka(properties=limits).address, is_mock=False)


@pytest.fixture(params=["mock_broker", "large_broker"])
def broker(request: pytest.FixtureRequest) -> KafkaBroker:
    """The broker inside librdkafka, and a real one."""
    found: KafkaBroker = request.getfixturevalue(request.param)
    return found


def make_project(root: Path, broker: KafkaBroker) -> tuple[Path, dict[str, str]]:
    """Write the shop's project over topics of its own; return its folder, and the topics by source."""
    specs, topics = shop.SPECS, {}
    for source in ("payments", "visits"):
        topics[source] = broker.create_topic(f"{source}-poison-{next(_numbers)}")
        specs = specs.replace(f"{{topic: {source}}}", f"{{topic: {topics[source]}}}")
    online = {"kind": "sqlite", "path": str(root / "online.db")}
    config = {"project": "shop", "online": online, "stream": broker.config}
    return write_project(root, specs, json.dumps(config)), topics


@contextmanager
def producing(broker: KafkaBroker, **options: Any) -> Iterator[Producer]:
    """A producer that is not ours; everything is acknowledged when the block ends."""
    producer = Producer({"bootstrap.servers": broker.address, **options}, logger=_LOGGER)
    yield producer
    assert producer.flush(120) == 0


def payment(**changes: Any) -> bytes:
    """Return a message that would be a payment but for the changes; its id says that it is poison."""
    at = "2026-01-01T00:00:00Z"
    row = {"id": "poison", "customer": "c1", "shop": 1, "at": at, "known_at": at, "amount": 1.0, "units": 1}
    return json.dumps({**row, "kind": "a", **changes}).encode()


BAD: dict[str, list[bytes | None]] = {
    "malformed": [b"poison", b'{"id": "poison"', b'["poison"]', b"poison\xff\xfe", b"{poison:1}" * 50],
    "bad_type": [payment(amount="1"), payment(customer=7), payment(units=[1]), payment(at={})],
    "bad_value": [payment(units=2**70), payment(at="yesterday"), payment(units=1.5)],
    "naive_timestamp": [payment(at="2026-01-01T00:00:00")],
    "null_event_time": [payment(at=None), b'{"id": "poison"}'],
    "null_event_id": [payment(id=None, kind="poison")],
    "future": [payment(at=format_instant(now() + 10**13))],
    "tombstone": [None],
    "too_large": [payment(kind="x" * 1_060_000)],
}
"""Messages that are no payments, by the code of their dead letter."""


def is_row(value: bytes | None) -> bool:
    return value is not None and b"poison" not in value


def letters(store: FeatureStore) -> Counter[str]:
    """Return how many dead letters there are of each code."""
    table = store.environment.offline.table(tables.DEAD_LETTERS)
    snapshot = table.snapshot()
    if snapshot is None:
        return Counter()
    return Counter(table.lazy(snapshot, ["code"]).collect()["code"].to_list())


@pytest.mark.parametrize("engine", ENGINES)
def test_one_event_in_a_hundred_is_malformed(
    engine: str, tmp_path: Path, broker: KafkaBroker, measured: Measured
) -> None:
    rng = random.Random(5)
    paid, visited = shop.make_log(21, 10_000 if LONG and not broker.is_mock else 700)
    root, topics = make_project(tmp_path, broker)
    # librdkafka's broker keeps 5 MB, and no more than a megabyte in a message.
    bad = {code: found for code, found in BAD.items() if not (broker.is_mock and code == "too_large")}
    wanted: Counter[str] = Counter()
    each = [(code, message) for code, found in bad.items() for message in found]
    rng.shuffle(each)
    drawn = itertools.cycle(each)
    with producing(broker, **{"message.max.bytes": 10_000_000}) as producer:
        for source, rows in (("payments", paid), ("visits", visited)):
            for number, row in enumerate(rows):
                producer.produce(topics[source], shop.message(source, row), rng.choice([None, b"k"]))
                if source == "payments" and (number % 100 == 0 or number < len(each)):
                    code, message = next(drawn)
                    producer.produce(topics[source], message, b"k")
                    wanted[code] += 1
        producer.flush(60)
    total = len(paid) + len(visited) + wanted.total()
    with FeatureStore(root) as store:
        store.apply()
        started = time.monotonic()
        with streaming(root, engine) as running:
            running.await_records(total)
        store.drain()
        assert lag(store) == 0
        compared = check(store, is_row=is_row, sample=SAMPLE)
        assert letters(store) == wanted
        counted = {
            code: sum(found.get(f"rejected_{code}", 0) for found in running.counts.values())
            for code in wanted
        }
        assert counted == wanted
    measured(
        "1 % malformed events",
        promised="each is a dead letter with its code, position and bytes; every other event is applied",
        broker="librdkafka's" if broker.is_mock else "Apache Kafka",
        engine=engine,
        events=total,
        dead_letters=dict(wanted),
        values_compared=compared,
        seconds=round(time.monotonic() - started, 1),
        lost=0,
        counted_twice=0,
    )


_STREAM = """
from featurestore.cli import main
from featurestore_engines.stream import pipeline
pipeline.FLUSH_SECONDS = 1.0
raise SystemExit(main())
"""


class Process:
    """`featurestore stream` in a process of its own, whose memory is looked at."""

    def __init__(self, root: Path, engine: str) -> None:
        self._log = root / "stream.log"
        command = [sys.executable, "-c", _STREAM, "stream", "--engine", engine]
        with self._log.open("ab") as file:
            self._process = subprocess.Popen(command, cwd=root, stdout=file, stderr=file)

    def memory(self, field: str = "VmRSS") -> int:
        """Return bytes resident now, or with VmHWM at most so far."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {field}: {self._log.read_text()}")

    def assert_alive(self) -> None:
        assert self._process.poll() is None, self._log.read_text()

    def stop(self) -> None:
        """End it as SIGTERM does."""
        self._process.terminate()
        assert self._process.wait(60) == 0, self._log.read_text()


def await_applied(store: FeatureStore, process: Process, seconds: float = 120.0) -> int:
    """Return the most memory seen until everything that was sent is online."""
    deadline = time.monotonic() + seconds
    most = 0
    while lag(store, offline=False):
        assert time.monotonic() < deadline, "the stream does not catch up"
        process.assert_alive()
        most = max(most, process.memory())
        time.sleep(0.05)
    return most


@pytest.mark.parametrize("engine", ENGINES)
def test_messages_of_50_megabytes(
    engine: str, tmp_path: Path, large_broker: KafkaBroker, measured: Measured
) -> None:
    """One after the other in every partition, between good events."""
    count = 24 if LONG else 6
    huge = b'{"id": "poison", "kind": "' + b"x" * 50_000_000 + b'"}'
    paid, visited = shop.make_log(22, 150)
    root, topics = make_project(tmp_path, large_broker)
    with FeatureStore(root) as store:
        store.apply()
        process = Process(root, engine)
        send(store, "payments", paid[:50])
        send(store, "visits", visited)
        before = await_applied(store, process)
        started = time.monotonic()
        with producing(large_broker, **{"message.max.bytes": 60_000_000}) as producer:
            for number in range(count):
                producer.produce(topics["payments"], huge, partition=number % 4)
                producer.flush(60)
        send(store, "payments", paid[50:])
        await_applied(store, process)
        seconds = time.monotonic() - started
        most = process.memory("VmHWM")
        process.stop()
        check(store, is_row=is_row, sample=SAMPLE)
        assert letters(store) == {"too_large": count}
        table = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = table.snapshot()
        assert snapshot is not None
        dead = table.lazy(snapshot, ["payload", "message"]).collect()
        assert dead["payload"].to_list() == [huge[:4096]] * count
        assert set(dead["message"]) == {f"{len(huge)} bytes are more than max_bytes: 1048576"}
        assert most - before < 900 * MEBIBYTE
    measured(
        f"{count} messages of 50 MB",
        promised="each is a dead letter of 4 KiB; its partition goes on; memory stays bounded",
        broker="Apache Kafka",
        engine=engine,
        seconds=round(seconds, 1),
        memory_before_mib=before // MEBIBYTE,
        memory_most_mib=most // MEBIBYTE,
        lost=0,
        counted_twice=0,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_topic_in_which_everything_has_another_schema(
    engine: str, tmp_path: Path, broker: KafkaBroker, measured: Measured
) -> None:
    """Millions of another team's messages: the stream lives, memory is flat, and good events still count."""
    count = (300_000 if LONG else 8_000) if not broker.is_mock else 8_000
    paid, visited = shop.make_log(23, 100)
    root, topics = make_project(tmp_path, broker)
    with FeatureStore(root) as store:
        store.apply()
        process = Process(root, engine)
        send(store, "visits", visited)
        before = await_applied(store, process)
        with producing(broker) as producer:
            readings = []
            for part in range(4):  # the table of dead letters grows; what the process holds does not
                for number in range(count // 4):
                    other = {"order": f"poison-{part}-{number}", "lines": [number] * 20, "amount": "twelve"}
                    producer.produce(topics["payments"], json.dumps(other).encode(), b"%d" % number)
                    if number % 10_000 == 0:
                        producer.flush(60)
                producer.flush(60)
                readings.append(await_applied(store, process, 600))
        send(store, "payments", paid)
        await_applied(store, process)
        process.stop()
        check(store, is_row=is_row, sample=SAMPLE)
        assert letters(store) == {"bad_type": count}
        table = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = table.snapshot()
        assert snapshot is not None
        files = [Path(file.removeprefix("file://")) for file in table.files(snapshot)]
        stored = sum(file.stat().st_size for file in files)
        assert max(readings[2:]) - max(before, readings[0], readings[1]) < 150 * MEBIBYTE
        assert stored / count < 200
    measured(
        "a topic in which everything has another schema",
        promised="the stream goes on; each message is a dead letter; memory is flat",
        broker="librdkafka's" if broker.is_mock else "Apache Kafka",
        engine=engine,
        messages=count,
        bytes_per_dead_letter=round(stored / count, 1),
        memory_mib=[reading // MEBIBYTE for reading in (before, *readings)],
        lost=0,
        counted_twice=0,
    )


def make_anew(broker: KafkaBroker, topic: str) -> None:
    """Delete a topic and create it again, as soon as its deletion has gone through."""
    admin = AdminClient({"bootstrap.servers": broker.address}, logger=_LOGGER)
    admin.delete_topics([topic])[topic].result(15)
    deadline = time.monotonic() + 20
    while True:
        try:
            admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(15)
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moment", ["streaming", "stopped"])
def test_a_topic_deleted_and_made_anew(
    moment: str, engine: str, tmp_path: Path, large_broker: KafkaBroker, measured: Measured
) -> None:
    paid, visited = shop.make_log(24, 200)
    root, topics = make_project(tmp_path, large_broker)
    old, new = paid[:100], paid[100:]
    with FeatureStore(root) as store:
        store.apply()
        send(store, "payments", old)
        send(store, "visits", visited)
        with pytest.raises(OperatorError) as error, streaming(root, engine) as running:  # noqa: PT012
            running.await_records(len(old) + len(visited))
            if moment == "stopped":
                running.stop()
            make_anew(large_broker, topics["payments"])
            with producing(large_broker) as producer:
                for row in new:
                    producer.produce(topics["payments"], shop.message("payments", row))
            if moment == "stopped":
                store.drain()
            running.await_end()
        started = time.monotonic()
        for _ in range(3):  # however often it is tried: nothing of the new topic is applied unasked
            with pytest.raises(OperatorError, match="is another one than before") as error:
                store.drain()
            assert "featurestore accept-topic payments" in str(error.value)
        assert store.accept_topic("payments")
        with streaming(root, engine) as running:
            running.await_records(len(new))
        store.drain()
        seconds = time.monotonic() - started
        assert lag(store) == 0
        check(store, old, sample=SAMPLE)
    measured(
        f"a topic deleted and made anew, while {moment}",
        promised="the stream ends with an operator's error whenever it starts, until the topic is accepted",
        broker="Apache Kafka",
        engine=engine,
        seconds=round(seconds, 1),
        lost=0,
        counted_twice=0,
    )
