"""Test support: a Kafka broker, the one inside librdkafka unless a real one is given.

    from tests.brokers import KafkaBroker, kafka_broker    # the fixture comes with the import

`FEATURESTORE_TEST_KAFKA=host:port` names a real broker; the tests that need one (`needs_real_broker`:
topic ids, retention, recreated topics, transactions) are skipped without it.

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
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

_LOGGER = logging.getLogger("tests.kafka")
_SECONDS = 15.0


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
def kafka_broker() -> Iterator[KafkaBroker]:
    """A broker for the session: the real one that the environment names, else librdkafka's."""
    address = os.environ.get("FEATURESTORE_TEST_KAFKA")
    broker = KafkaBroker(address, is_mock=False) if address else start_mock_broker()
    yield broker
    broker.stop()


needs_real_broker = pytest.mark.skipif(
    "FEATURESTORE_TEST_KAFKA" not in os.environ, reason="FEATURESTORE_TEST_KAFKA names no real broker"
)
