"""What every stream source does: the embedded log and Kafka by one suite."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featurestore.contracts import Record, RecordBatch, StreamReader, StreamSource
from featurestore.errors import OperatorError
from featurestore_connectors.kafka import KafkaStream
from featurestore_connectors.log import LogStream

PARTITIONS = 4
Open = Callable[[], StreamSource]


_KAFKA = [pytest.param(name, marks=pytest.mark.kafka) for name in ("mock_broker", "kafka")]


@pytest.fixture(params=["log", *_KAFKA])
def open_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same fresh topic of four partitions, as often as it is called."""
    opened: list[StreamSource] = []
    if request.param != "log":
        broker = request.getfixturevalue(request.param)
        topic = broker.create_topic()

    def open_it() -> StreamSource:
        if request.param != "log":
            opened.append(KafkaStream(broker.config, topic))
        else:
            opened.append(LogStream({"path": str(tmp_path)}, "events", {"partitions": PARTITIONS}))
        return opened[-1]

    yield open_it
    for source in opened:
        source.close()


@pytest.fixture
def source(open_source: Open) -> StreamSource:
    """One open topic of four partitions."""
    return open_source()


def read(reader: StreamReader, count: int) -> list[Record]:
    """Return the next `count` records."""
    records: list[Record] = []
    deadline = time.monotonic() + 20
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        batch = reader.poll(count - len(records), 1.0)
        if batch is not None:
            assert batch.partition == reader.partition
            assert not batch.records or batch.next_sequence == batch.records[-1].sequence + 1
            records.extend(batch.records)
    return records


def append_to_one(source: StreamSource, values: list[bytes]) -> tuple[str, list[int]]:
    """Append under one key; return the partition and the sequences."""
    places = source.append([(b"one key", value) for value in values])
    [partition] = {name for name, _ in places}
    return partition, [sequence for _, sequence in places]


def test_partitions_are_named_in_order_and_stay_the_same(open_source: Open) -> None:
    names = open_source().partitions()
    assert len(names) == PARTITIONS
    assert [name.rpartition("/")[2] for name in names] == ["0", "1", "2", "3"]
    assert len({name.rpartition("/")[0] for name in names}) == 1
    assert open_source().partitions() == names


def test_what_is_appended_is_read_back_in_order_with_its_time(source: StreamSource) -> None:
    before = time.time_ns() // 1_000_000 * 1000
    partition, sequences = append_to_one(source, [b"a", b"b", b"c"])
    after = time.time_ns() // 1000 + 1000
    assert sequences == [0, 1, 2]
    assert partition in source.partitions()
    reader = source.reader(partition, None)
    records = read(reader, 3)
    reader.close()
    assert [(record.sequence, record.key, record.value) for record in records] == [
        (0, b"one key", b"a"),
        (1, b"one key", b"b"),
        (2, b"one key", b"c"),
    ]
    assert all(record.time is not None and before <= record.time <= after for record in records)


def test_bytes_nulls_and_empty_values_come_back_as_they_were(source: StreamSource) -> None:
    everything = bytes(range(256)) * 40
    sent: list[tuple[bytes | None, bytes | None]] = [
        (b"k", everything),
        (b"k", None),
        (b"k", b""),
        (everything, b"\x00"),
        (b"", b"empty key"),
        (None, b"no key"),
        (None, None),
    ]
    places = source.append(sent)  # type: ignore[arg-type]
    for (key, value), (partition, sequence) in zip(sent, places, strict=True):
        reader = source.reader(partition, sequence)
        [record] = read(reader, 1)
        reader.close()
        assert (record.sequence, record.key, record.value) == (sequence, key, value)


def test_a_reader_starts_at_exactly_the_sequence_asked_for(source: StreamSource) -> None:
    partition, _ = append_to_one(source, [b"%d" % number for number in range(100)])
    for start in (0, 1, 42, 99):
        reader = source.reader(partition, start)
        assert [record.value for record in read(reader, 100 - start)] == [
            b"%d" % number for number in range(start, 100)
        ]
        reader.close()


def test_a_batch_has_at_most_the_records_asked_for(source: StreamSource) -> None:
    partition, _ = append_to_one(source, [b"%d" % number for number in range(25)])
    reader = source.reader(partition, 0)
    seen: list[bytes | None] = []
    while len(seen) < 25:
        batch = reader.poll(10, 5.0)
        assert batch is not None
        assert len(batch.records) <= 10
        seen += [record.value for record in batch.records]
    reader.close()
    assert seen == [b"%d" % number for number in range(25)]


def test_end_is_after_the_last_record_and_moves_on(source: StreamSource) -> None:
    partition, _ = append_to_one(source, [b"a"] * 7)
    reader = source.reader(partition, 3)
    assert reader.end() == 7
    append_to_one(source, [b"b"] * 2)
    assert reader.end() == 9
    read(reader, 6)
    assert reader.end() == 9
    reader.close()


def test_ends_are_those_of_all_partitions(source: StreamSource) -> None:
    assert source.ends() == dict.fromkeys(source.partitions(), 0)
    partition, _ = append_to_one(source, [b"a"] * 7)
    assert source.ends() == {name: 7 if name == partition else 0 for name in source.partitions()}


def test_an_empty_partition_ends_at_zero_and_gives_nothing(source: StreamSource) -> None:
    reader = source.reader(source.partitions()[0], None)
    assert reader.end() == 0
    assert reader.poll(10, 0.0) is None
    assert reader.poll(10, 0.1) is None
    reader.close()


def test_two_readers_do_not_disturb_each_other(open_source: Open) -> None:
    one, other = open_source(), open_source()
    partition, _ = append_to_one(one, [b"%d" % number for number in range(20)])
    first, second = one.reader(partition, 0), other.reader(partition, 10)
    assert [record.sequence for record in read(first, 5)] == [0, 1, 2, 3, 4]
    assert [record.sequence for record in read(second, 10)] == list(range(10, 20))
    assert [record.sequence for record in read(first, 15)] == list(range(5, 20))
    first.close()
    second.close()


def test_a_waiting_reader_gets_what_another_appends(open_source: Open) -> None:
    partition, _ = append_to_one(open_source(), [b"first"])
    reader = open_source().reader(partition, 1)
    got: list[RecordBatch | None] = []
    waiting = threading.Thread(target=lambda: got.append(reader.poll(10, 20.0)))
    waiting.start()
    append_to_one(open_source(), [b"second"])
    waiting.join()
    reader.close()
    [batch] = got
    assert batch is not None
    assert [(record.sequence, record.value) for record in batch.records] == [(1, b"second")]
    assert batch.next_sequence == 2


def test_a_position_after_the_end_is_an_operators_error(source: StreamSource) -> None:
    partition, _ = append_to_one(source, [b"a", b"b"])
    source.reader(partition, 2).close()
    with pytest.raises(OperatorError, match=r"ends at 2, before the position 3 that was applied") as error:
        source.reader(partition, 3)
    assert partition in str(error.value)
    assert error.value.hint


def test_a_partition_of_another_topic_is_an_operators_error(source: StreamSource) -> None:
    stranger = source.partitions()[0].replace("/", "X/", 1)
    with pytest.raises(OperatorError, match="There is no partition") as error:
        source.reader(stranger, 0)
    assert stranger in str(error.value)


def test_appending_nothing_is_nothing(source: StreamSource) -> None:
    assert source.append([]) == []


def test_equal_keys_share_a_partition_and_many_keys_use_all(source: StreamSource) -> None:
    keys = [b"key %d" % (number % 50) for number in range(200)]
    places = source.append([(key, b"") for key in keys])
    partition_of: dict[bytes, set[str]] = {}
    for key, (partition, _) in zip(keys, places, strict=True):
        partition_of.setdefault(key, set()).add(partition)
    assert all(len(partitions) == 1 for partitions in partition_of.values())
    assert {partition for partition, _ in places} == set(source.partitions())


def test_threads_append_at_once_and_nothing_is_lost(source: StreamSource) -> None:
    places: list[tuple[int, tuple[str, int]]] = []

    def produce(thread: int) -> None:
        for number in range(20):
            value = thread * 1000 + number
            places.append((value, source.append([(b"one key", b"%d" % value)])[0]))

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    partition = places[0][1][0]
    reader = source.reader(partition, 0)
    stored = {record.sequence: record.value for record in read(reader, 120)}
    reader.close()
    assert stored == {sequence: b"%d" % value for value, (_, sequence) in places}
    assert sorted(stored) == list(range(120))
