"""Test support: Kafka brokers, the one inside librdkafka and a real Apache Kafka.

Fixtures (tests/conftest.py makes them known): `kafka`, the session's real node; `start_kafka()`, nodes to
kill and start again; `mock_broker`, librdkafka's;
`kafka_broker`, each kind in turn, for tests that hold on both. What needs topic ids,
retention, recreated topics or transactions asks for `kafka`. Where no real Kafka can be had (no Java, no
Maven), its tests are skipped with the reason.

The broker inside librdkafka is started by `Producer({"test.mock.num.brokers": 1})` and lives as long as
that object; any client of this machine reaches it over TCP. Its limits:

- It keeps about 5 MB per partition and **silently drops the oldest**. Never let a producer run further
  ahead of the consumer than that, and call `assert_complete` where a test depends on all rows.
- Every topic has 4 partitions and comes into being when a client that allows it asks for its metadata.
- A fetch that waits is not woken by new records: it takes its full `fetch.wait.max.ms`, which
  `KafkaBroker.config` therefore sets to 10 (500 unless set).
- It has no topic ids, no CreateTopics, DeleteTopics, DescribeTopics and no transactions' markers.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from kafka_server import KafkaServer, KafkaUnavailable

_LOGGER = logging.getLogger("tests.kafka")
_SECONDS = 15.0

StartKafka = Callable[..., KafkaServer]


@dataclass
class KafkaBroker:
    """A broker at `address`. `stop` ends it where it is ours."""

    address: str
    is_mock: bool
    _server: Producer | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What a project writes under `stream:`."""
        options = {"fetch.wait.max.ms": 10} if self.is_mock else {}
        return {"kind": "kafka", "brokers": self.address, "options": options}

    def create_topic(self, name: str | None = None, partitions: int = 4) -> str:
        """Return the name of a topic that is there now. The broker in librdkafka makes 4 partitions."""
        name = name or f"topic-{secrets.token_hex(6)}"
        if self._server is not None:
            assert partitions == 4, "the broker in librdkafka makes topics of 4 partitions"
            self._server.list_topics(name, timeout=_SECONDS)
        else:
            admin = self._admin()
            admin.create_topics([NewTopic(name, partitions, 1)])[name].result(_SECONDS)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic (real broker)."""
        admin = self._admin()
        admin.delete_topics([name])[name].result(_SECONDS)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Do what retention does: delete the records below offset `before` (real broker)."""
        admin, where = self._admin(), TopicPartition(topic, partition, before)
        admin.delete_records([where])[where].result(_SECONDS)

    def assert_complete(self, topic: str) -> None:
        """Fail when the broker has dropped records of the topic."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "tests"}, logger=_LOGGER)
        try:
            for number in consumer.list_topics(topic, timeout=_SECONDS).topics[topic].partitions:
                low, _ = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_SECONDS)
                assert low == 0, f"{topic}/{number}: the broker dropped the records before {low}"
        finally:
            consumer.close()

    def stop(self) -> None:
        """End the broker where it is the one inside librdkafka."""
        self._server = None

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address}, logger=_LOGGER)


def start_mock_broker() -> KafkaBroker:
    """Return a fresh broker inside librdkafka."""
    server = Producer({"test.mock.num.brokers": 1}, logger=_LOGGER)
    [broker] = server.list_topics(timeout=_SECONDS).brokers.values()
    return KafkaBroker(f"{broker.host}:{broker.port}", is_mock=True, _server=server)


@pytest.fixture(scope="session")
def start_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartKafka]:
    """Starts a real Apache Kafka node of the test's own: `start_kafka()`, with `.kill()` and `.start()`.

    Skips with the reason where there is none to be had. Every one ends with the session at the latest.
    """
    servers: list[KafkaServer] = []

    def start(**options: Any) -> KafkaServer:
        try:
            server = KafkaServer(tmp_path_factory.mktemp("kafka"), **options)
            servers.append(server)
            return server.start()
        except KafkaUnavailable as error:
            pytest.skip(f"no Apache Kafka: {error}")

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def kafka(start_kafka: StartKafka) -> KafkaBroker:
    """The session's real Apache Kafka node. Tests share it: keep to topics of one's own, do not kill it."""
    return KafkaBroker(start_kafka().address, is_mock=False)


@pytest.fixture(scope="session")
def mock_broker() -> Iterator[KafkaBroker]:
    """The session's broker inside librdkafka."""
    broker = start_mock_broker()
    yield broker
    broker.stop()


@pytest.fixture(params=["mock_broker", "kafka"])
def kafka_broker(request: pytest.FixtureRequest) -> KafkaBroker:
    """The broker inside librdkafka, and the real one, in turn."""
    broker: KafkaBroker = request.getfixturevalue(request.param)
    return broker
