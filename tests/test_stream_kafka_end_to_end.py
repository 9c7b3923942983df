"""A project streams from a real Kafka into Redis: keys or none, gaps, transactions; and shows its lag."""

from __future__ import annotations

import itertools
import json
import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shop
from brokers import KafkaBroker, StartKafka
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from parity import write_project
from streams import check, lag, streaming

from featurestore import FeatureStore, tables

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
_LOGGER = logging.getLogger("tests.kafka")
_names = itertools.count()
ENGINES = [
    "local",
    pytest.param("bytewax", marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="no wheel")),
]


@pytest.fixture(scope="module")
def broker(start_kafka: StartKafka) -> KafkaBroker:
    """A node that compacts at once."""
    quick = {"log.cleaner.backoff.ms": "100", "log.initial.task.delay.ms": "0"}
    return KafkaBroker(start_kafka(properties=quick).address, is_mock=False)


@pytest.fixture
def redis_config(redis_url: str) -> dict[str, Any]:
    return {"kind": "redis", "url": redis_url, "prefix": f"kafka{next(_names)}"}


def make_project(
    root: Path, broker: KafkaBroker, online: dict[str, Any], partitions: dict[str, int], **configs: Any
) -> tuple[Path, dict[str, str]]:
    """Write the shop's project over topics of its own; return its folder, and the topics by source."""
    specs, topics = shop.SPECS, {}
    admin = AdminClient({"bootstrap.servers": broker.address}, logger=_LOGGER)
    for source, count in partitions.items():
        topic = topics[source] = f"{source}-{next(_names)}"
        admin.create_topics([NewTopic(topic, count, 1, config=configs.get(source, {}))])[topic].result(15)
        specs = specs.replace(f"{{topic: {source}}}", f"{{topic: {topic}}}")
    config = {"project": "shop", "online": online, "stream": broker.config}
    return write_project(root, specs, json.dumps(config)), topics


@pytest.fixture
def producer(broker: KafkaBroker) -> Iterator[Producer]:
    """A producer that is not ours."""
    made = Producer({"bootstrap.servers": broker.address}, logger=_LOGGER)
    yield made
    made.flush(15)


def is_row(value: bytes | None) -> bool:
    return value is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_topics_with_and_without_keys_headers_and_tombstones(
    engine: str, tmp_path: Path, broker: KafkaBroker, redis_config: dict[str, Any], producer: Producer
) -> None:
    """Neither topic is partitioned by the sets' entities: keys are null, random, or of another column."""
    rng = random.Random(1)
    paid, visited = shop.make_log(11, 150)
    root, topics = make_project(tmp_path, broker, redis_config, {"payments": 3, "visits": 2})
    tombstones = 0
    for source, rows in (("payments", paid), ("visits", visited)):
        for row in rows:
            key = rng.choice([None, b"", rng.randbytes(3), str(row.get("shop")).encode()])
            headers = [("trace", rng.randbytes(4)), ("empty", None)] if rng.random() < 0.3 else None
            producer.produce(topics[source], shop.message(source, row), key, headers=headers)
            if rng.random() < 0.05:
                producer.produce(topics[source], None, key)
                tombstones += 1
    producer.flush(15)
    with FeatureStore(root) as store:
        store.apply()
        with streaming(root, engine, workers=2) as running:
            running.await_records(len(paid) + len(visited) + tombstones)
        store.drain()
        assert lag(store) == 0
        check(store, is_row=is_row)
        dead = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = dead.snapshot()
        assert snapshot is not None
        letters = dead.lazy(snapshot, ["code"]).collect()["code"].to_list()
        assert letters == ["tombstone"] * tombstones
        for source in topics:
            ends = store.environment.stream(store.catalog.source(source)).ends()
            assert shown(broker, f"shop-{source}", topics[source]) == {
                (topics[source], int(name.rpartition("/")[2])): end for name, end in ends.items()
            }


def shown(broker: KafkaBroker, group: str, topic: str) -> dict[tuple[str, int], int]:
    """Return what Kafka's tools say that a group has read of a topic."""
    admin = AdminClient({"bootstrap.servers": broker.address}, logger=_LOGGER)
    asked = [ConsumerGroupTopicPartitions(group)]
    found = admin.list_consumer_group_offsets(asked)[group].result(15)
    return {(p.topic, p.partition): p.offset for p in found.topic_partitions if p.topic == topic}


def test_what_a_group_shows_is_never_read_back(
    tmp_path: Path, broker: KafkaBroker, redis_config: dict[str, Any], producer: Producer
) -> None:
    """Somebody resets the group's offsets, to the beginning or far ahead: nothing is doubled or left out."""
    paid, visited = shop.make_log(12, 60)
    root, topics = make_project(tmp_path, broker, redis_config, {"payments": 1, "visits": 1})
    with FeatureStore(root) as store:
        store.apply()
        for part, offset in ((slice(0, 30), 0), (slice(30, 60), 1_000_000)):
            for source, rows in (("payments", paid), ("visits", visited)):
                for row in rows[part]:
                    producer.produce(topics[source], shop.message(source, row))
            producer.flush(15)
            with streaming(root, "local") as running:
                running.await_records(len(paid[part]) + len(visited[part]))
            reset(broker, "shop-payments", topics["payments"], offset)
        store.drain()
        check(store)


def reset(broker: KafkaBroker, group: str, topic: str, offset: int) -> None:
    from confluent_kafka import TopicPartition

    admin = AdminClient({"bootstrap.servers": broker.address}, logger=_LOGGER)
    wanted = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, offset)])]
    admin.alter_consumer_group_offsets(wanted)[group].result(15)


@pytest.mark.parametrize("engine", ENGINES)
def test_compacted_topics_and_transactions(
    engine: str, tmp_path: Path, broker: KafkaBroker, redis_config: dict[str, Any], producer: Producer
) -> None:
    """Visits are compacted, so that offsets have gaps; payments are written in transactions, some aborted."""
    paid, visited = shop.make_log(13, 120)
    compacted = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.0",
        "delete.retention.ms": "0",
    }
    root, topics = make_project(
        tmp_path, broker, redis_config, {"payments": 2, "visits": 1}, visits=compacted
    )
    for number, row in enumerate(visited[:-1]):
        producer.produce(topics["visits"], shop.message("visits", row), b"%d" % (number % 7))
    producer.flush(15)
    later = time.time_ns() // 1_000_000 + 1000  # another segment: the one that is written to is spared
    producer.produce(topics["visits"], shop.message("visits", visited[-1]), b"last", timestamp=later)
    producer.flush(15)
    transactional = Producer(
        {"bootstrap.servers": broker.address, "transactional.id": topics["payments"]}, logger=_LOGGER
    )
    transactional.init_transactions(15)
    committed = 0
    for start in range(0, len(paid), 10):
        transactional.begin_transaction()
        for row in paid[start : start + 10]:
            transactional.produce(topics["payments"], shop.message("payments", row))
        if start % 30:
            transactional.commit_transaction(15)
            committed += len(paid[start : start + 10])
        else:
            transactional.flush(15)
            transactional.abort_transaction(15)
    with FeatureStore(root) as store:
        store.apply()
        left = 8
        await_compaction(store, left)
        with streaming(root, engine) as running:
            running.await_records(committed + left)
        store.drain()
        assert lag(store) == 0
        check(store)
        assert sum(found["records"] for found in running.counts.values()) == committed + left


def await_compaction(store: FeatureStore, wanted: int) -> None:
    """Return once so many visits are left."""
    source = store.environment.stream(store.catalog.source("visits"))
    [partition] = source.partitions()
    deadline = time.monotonic() + 60
    left = -1
    while left != wanted:
        assert time.monotonic() < deadline, f"{left} messages are left, not {wanted}"
        reader = source.reader(partition, None)
        end, reached, left = reader.end(), 0, 0
        while reached < end:
            batch = reader.poll(1000, 1.0)
            if batch is not None:
                reached, left = batch.next_sequence, left + len(batch.records)
        reader.close()
