"""Kafka specials: acknowledgement, Java's partitioner, brokers that go away, topics that lose records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from brokers import KafkaBroker, start_mock_broker
from confluent_kafka import Producer

from featurestore.contracts import RecordBatch, StreamReader
from featurestore.errors import OperatorError, SpecError, StoreUnavailable
from featurestore_connectors.kafka import KafkaStream

pytestmark = pytest.mark.kafka


@pytest.fixture
def source(kafka_broker: KafkaBroker) -> Iterator[KafkaStream]:
    """A fresh topic of four partitions."""
    stream = KafkaStream(kafka_broker.config, kafka_broker.create_topic())
    yield stream
    stream.close()


def java_partition(key: bytes, partitions: int) -> int:
    """Return what Java's BuiltInPartitioner gives: toPositive(murmur2(key)) % partitions."""
    mask = 0xFFFFFFFF
    value = 0x9747B28C ^ len(key)
    for at in range(0, len(key) - len(key) % 4, 4):
        part = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 & mask
        part = (part ^ part >> 24) * 0x5BD1E995 & mask
        value = value * 0x5BD1E995 & mask ^ part
    rest = key[len(key) - len(key) % 4 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * 0x5BD1E995 & mask
    value = (value ^ value >> 13) * 0x5BD1E995 & mask
    return ((value ^ value >> 15) & 0x7FFFFFFF) % partitions


def await_batch(reader: StreamReader) -> RecordBatch:
    batch = reader.poll(100, 20.0)
    assert batch is not None
    return batch


def test_the_hand_written_murmur2_is_kafkas() -> None:
    """The values of Kafka's own UtilsTest.testMurmur2, as unsigned and made positive."""
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, expected in known.items():
        assert java_partition(key, 1 << 31) == expected & 0x7FFFFFFF


def test_a_key_goes_where_a_java_producer_would_send_it(source: KafkaStream) -> None:
    keys = [b"customer %d" % number for number in range(60)] + [b"a", b"ab", b"abc", b""]
    places = source.append([(key, b"") for key in keys])
    assert [int(name.rpartition("/")[2]) for name, _ in places] == [java_partition(key, 4) for key in keys]


def test_partitions_are_named_by_cluster_topic_and_topic_id(source: KafkaStream) -> None:
    kind, _, rest = source.partitions()[3].partition(":")
    cluster, topic, topic_id, number = rest.split("/")
    assert (kind, topic, number) == ("kafka", source.topic, "3")
    assert cluster
    assert topic_id


def test_an_unknown_topic_is_an_operators_error_and_is_not_created(kafka_broker: KafkaBroker) -> None:
    stream = KafkaStream(kafka_broker.config, "no-such-topic")
    for ask in (
        stream.partitions,
        lambda: stream.append([(b"k", b"v")]),
        lambda: stream.reader("kafka:c/no-such-topic/-/0", 0),
    ):
        with pytest.raises(OperatorError, match="has no topic 'no-such-topic'") as error:
            ask()
        assert not error.value.retryable


def test_what_exactness_rests_on_cannot_be_set(kafka_broker: KafkaBroker) -> None:
    for name, value in (("acks", 1), ("enable.auto.commit", True), ("auto.offset.reset", "latest")):
        with pytest.raises(SpecError, match=f"'{name}' is fixed"):
            KafkaStream({**kafka_broker.config, "options": {name: value}}, "t")


def test_an_option_that_librdkafka_does_not_know_is_the_authors_error(kafka_broker: KafkaBroker) -> None:
    with pytest.raises(SpecError, match=r"sasl\.mechanisn"):
        KafkaStream({**kafka_broker.config, "options": {"sasl.mechanisn": "PLAIN"}}, "t")


def test_sasl_options_reach_every_client(kafka_broker: KafkaBroker) -> None:
    """A broker that speaks plaintext cannot answer a client that was told to speak SASL."""
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "not shown",
    }
    stream = KafkaStream({**kafka_broker.config, "options": options, "unavailable_after": "2s"}, "t")
    with pytest.raises(OperatorError, match="Kafka at") as error:
        stream.partitions()
    assert "not shown" not in str(error.value)


def test_no_broker_is_unavailable_within_the_time_given() -> None:
    stream = KafkaStream({"brokers": "127.0.0.1:1", "unavailable_after": "1s"}, "t")
    started = time.monotonic()
    for ask in (stream.partitions, lambda: stream.append([(b"k", b"v")])):
        with pytest.raises(StoreUnavailable, match=r"Kafka at 127\.0\.0\.1:1, topic 't'"):
            ask()
    assert time.monotonic() - started < 10


def test_a_broker_that_goes_away_is_unavailable_to_readers_and_writers() -> None:
    broker = start_mock_broker()
    stream = KafkaStream({**broker.config, "unavailable_after": "3s"}, broker.create_topic())
    [(partition, _)] = stream.append([(b"k", b"kept")])
    reader = stream.reader(partition, 0)
    assert await_batch(reader).next_sequence == 1
    broker.stop()
    with pytest.raises(StoreUnavailable):
        reader.poll(10, 20.0)
    with pytest.raises(StoreUnavailable):
        reader.end()
    with pytest.raises(StoreUnavailable):
        stream.append([(b"k", b"lost")])
    reader.close()
    stream.close()


def test_an_idle_reader_stays_alive_while_the_broker_answers(kafka_broker: KafkaBroker) -> None:
    stream = KafkaStream({**kafka_broker.config, "unavailable_after": "1s"}, kafka_broker.create_topic())
    reader = stream.reader(stream.partitions()[0], None)
    assert reader.poll(10, 2.5) is None
    reader.close()


def test_a_record_that_the_broker_refuses_is_named(source: KafkaStream) -> None:
    with pytest.raises(
        OperatorError, match=r"1 records were not acknowledged \(numbers 1 of the call\)"
    ) as error:
        source.append([(b"k", b"first"), (b"k", bytes(3_000_000)), (b"k", b"third")])
    assert not error.value.retryable
    [(partition, sequence)] = source.append([(b"k", b"later")])
    assert sequence == 2
    reader = source.reader(partition, 0)
    assert [record.value for record in _read(reader, 3)] == [b"first", b"third", b"later"]
    reader.close()


def test_fifty_thousand_records_come_back_once_each_and_in_order(
    kafka_broker: KafkaBroker,
) -> None:
    """50 bytes each over 4 partitions: within what librdkafka's broker keeps."""
    stream = KafkaStream(kafka_broker.config, kafka_broker.create_topic())
    stream.append([(b"warm", b"")])
    started = time.perf_counter()
    places = []
    for at in range(0, 50_000, 1000):
        places += stream.append([(b"%d" % n, b"%d" % n + b" " * 40) for n in range(at, at + 1000)])
    appended = time.perf_counter()
    kafka_broker.assert_complete(stream.topic)
    expected: dict[str, dict[int, int]] = {}
    for number, (partition, sequence) in enumerate(places):
        expected.setdefault(partition, {})[sequence] = number
    reading = 0.0
    for partition, numbers in expected.items():
        first = min(numbers)
        reader = stream.reader(partition, first)
        started_reading = time.perf_counter()
        records = _read(reader, len(numbers))
        reading += time.perf_counter() - started_reading
        reader.close()
        assert [record.sequence for record in records] == sorted(numbers)
        assert [int(record.value or b"") for record in records] == [numbers[at] for at in sorted(numbers)]
    stream.close()
    print(f"append {50_000 / (appended - started):,.0f} records/s, read {50_000 / reading:,.0f} records/s")


def test_records_that_retention_deleted_are_an_operators_error(
    kafka: KafkaBroker,
) -> None:
    source = KafkaStream(kafka.config, kafka.create_topic())
    partition, _ = source.append([(b"k", b"%d" % number) for number in range(10)])[0]
    kafka.delete_records(source.topic, int(partition.rpartition("/")[2]), 6)
    with pytest.raises(OperatorError, match=r"records 2 to 5 are no longer in the topic") as error:
        source.reader(partition, 2)
    assert "go on from 6: featurestore accept-topic" in str(error.value)
    reader = source.reader(partition, None)
    assert await_batch(reader).records[0].sequence == 6
    reader.close()


def test_a_recreated_topic_has_another_name_and_stops_its_reader(
    kafka: KafkaBroker,
) -> None:
    source = KafkaStream(kafka.config, kafka.create_topic())
    partition, _ = source.append([(b"k", b"old %d" % number) for number in range(5)])[0]
    number = int(partition.rpartition("/")[2])
    reader = source.reader(partition, 0)
    assert [record.sequence for record in _read(reader, 5)] == [0, 1, 2, 3, 4]
    kafka.delete_topic(source.topic)
    _recreate(kafka, source.topic)
    flood = Producer({"bootstrap.servers": kafka.address})
    for _ in range(1000):
        flood.produce(source.topic, value=b"new", partition=number)
    flood.flush(10)
    with pytest.raises(OperatorError, match=r"recreated|truncated"):
        reader.poll(100, 60.0)
    fresh = source.partitions()[number]
    assert fresh != partition
    with pytest.raises(OperatorError, match="was recreated, or this is another cluster"):
        source.reader(partition, 5)
    reader.close()


def test_a_deleted_topic_stops_its_reader(kafka: KafkaBroker) -> None:
    stream = KafkaStream({**kafka.config, "unavailable_after": "2s"}, kafka.create_topic())
    [(partition, _)] = stream.append([(b"k", b"v")])
    reader = stream.reader(partition, 1)
    kafka.delete_topic(stream.topic)
    with pytest.raises(OperatorError, match="has no topic"):
        reader.poll(10, 60.0)
    reader.close()


def test_transactions_that_were_aborted_are_not_read_and_the_position_passes_them(
    kafka: KafkaBroker,
) -> None:
    stream = KafkaStream(kafka.config, kafka.create_topic(partitions=1))
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": stream.topic})
    producer.init_transactions(30)
    for value, commit in ((b"kept", True), (b"aborted", False), (b"kept too", True), (b"aborted", False)):
        producer.begin_transaction()
        producer.produce(stream.topic, value=value)
        producer.flush(10)
        (producer.commit_transaction if commit else producer.abort_transaction)(10)
    [partition] = stream.partitions()
    reader = stream.reader(partition, 0)
    end = reader.end()
    assert end == 8  # each of the four records is followed by its transaction's marker
    values: list[bytes | None] = []
    position = 0
    while position < end:
        batch = await_batch(reader)
        values += [record.value for record in batch.records]
        position = batch.next_sequence
    reader.close()
    assert values == [b"kept", b"kept too"]
    assert position == end
    stream.reader(partition, position).close()


def _recreate(broker: KafkaBroker, topic: str) -> None:
    """Create a topic again, as soon as its deletion has gone through."""
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + 20
    while True:
        try:
            broker.create_topic(topic)
        except KafkaException:
            assert time.monotonic() < deadline
        else:
            return


def _read(reader: StreamReader, count: int) -> list[Any]:
    records: list[Any] = []
    while len(records) < count:
        batch = reader.poll(count - len(records), 20.0)
        assert batch is not None, f"{len(records)} of {count} records came"
        records += batch.records
    return records
