"""Where streams begin: `start:` once and for all, added partitions at 0, and in known topics only."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from brokers import KafkaBroker, start_mock_broker
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from featurestore import FeatureStore, instants, running, tables
from featurestore.errors import OperatorError, SpecError
from featurestore.streaming import _Jobs
from featurestore_engines.stream import local
from featurestore_engines.stream.pipeline import catch_up

SPEC = """
kind: Entity
name: customer
---
kind: Source
name: events
event_time: at
schema: {{customer: string, at: timestamp, amount: int64{columns}}}
stream: {{topic: {topic}, start: {start}{options}}}
---
kind: FeatureSet
name: spending
entities: [customer]
source: events
history: all
aggregations:
  - {{column: amount, functions: [sum, count], windows: [lifetime]}}
"""


@dataclass
class Project:
    """A project on disk over one topic, of which `write` changes the declaration."""

    root: Path
    stream: dict[str, Any]
    topic: str
    has_partitions: bool = False

    def write(self, start: str = "earliest", partitions: int = 2, columns: str = "") -> FeatureStore:
        """Return the store of the project as declared so, and applied."""
        options = f", options: {{partitions: {partitions}}}" if self.has_partitions else ""
        text = SPEC.format(topic=self.topic, start=start, options=options, columns=columns)
        (self.root / "specs.yaml").write_text(text)
        config = {"project": "shop", "online": {"kind": "sqlite"}, "stream": self.stream}
        (self.root / "featurestore.yaml").write_text(json.dumps(config))
        store = FeatureStore(self.root)
        store.apply()
        return store


@pytest.fixture(params=["log", *(pytest.param(n, marks=pytest.mark.kafka) for n in ("mock_broker", "kafka"))])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A project on the log, and on each Kafka, in turn."""
    if request.param == "log":
        return Project(tmp_path, {"kind": "log", "path": str(tmp_path / "log")}, "events", True)
    broker: KafkaBroker = request.getfixturevalue(request.param)
    return Project(tmp_path, broker.config, broker.create_topic(partitions=4))


def send(store: FeatureStore, *amounts: int) -> None:
    """Append one event of customer C per amount, to partitions as they come."""
    topic = store.environment.stream(store.catalog.source("events"))
    messages = [json.dumps({"customer": "C", "at": "2026-01-01T00:00:00Z", "amount": n}) for n in amounts]
    topic.append([(str(n).encode(), text.encode()) for n, text in zip(amounts, messages, strict=True)])


def total(store: FeatureStore) -> tuple[int, int, int]:
    """Return the sum and the count online, and the rows offline."""
    store.catalog.forget()
    answer = store.get_online_features(
        ["spending.amount_sum_lifetime", "spending.amount_count_lifetime"], [{"customer": "C"}]
    ).to_dicts()[0]
    table = store.environment.rows_table(store.catalog.feature_set("spending"))
    snapshot = table.snapshot()
    rows = 0 if snapshot is None else table.rows(snapshot)
    return (
        answer["amount_sum_lifetime"],
        answer["amount_count_lifetime"],
        rows,
    )


def test_latest_leaves_out_what_was_there_and_nothing_that_came_after(project: Project) -> None:
    with project.write("latest") as store:
        send(store, 1, 2, 4, 8)
        assert store.drain()["events"].get("records", 0) == 0
        ends = store.environment.stream(store.catalog.source("events")).ends()
        assert sum(ends.values()) == 4
        source, plan = store.catalog.source("events"), store.catalog.feature_set("spending")
        for table in (
            store.environment.offline.table(tables.landing_table(source)),
            store.environment.rows_table(plan),
        ):
            assert {name: table.position(table.snapshot(), name) for name in ends} == ends
        letters = store.environment.offline.table(tables.DEAD_LETTERS)
        places = {name: tables.letters_position("events", name) for name in ends}
        found = {name: letters.position(letters.snapshot(), place) for name, place in places.items()}
        assert found == ends
        send(store, 16, 32)  # while no stream runs
    with project.write("latest") as store:
        store.drain()
        assert total(store) == (48, 2, 2)
        send(store, 64)
        store.drain()
        assert total(store) == (112, 3, 3)


def test_a_plain_stream_that_is_told_to_stop_reads_no_further_partition_and_commits(tmp_path: Path) -> None:
    project = Project(tmp_path, {"kind": "log", "path": str(tmp_path / "log")}, "events", True)
    with project.write(partitions=6) as store:
        send(store, *range(60))
        topic = store.environment.stream(store.catalog.source("events"))
        stop = Event()

        def is_over() -> bool:
            """Tell whether it was told to stop, which it is while it works on its first partition."""
            was_told = stop.is_set()
            stop.set()
            return was_told

        with local.Loop(_Jobs(store, "events", local.ENGINE).job(), topic) as loop:
            read = loop.step(is_over)
            loop.flush()
        assert 0 < read < 60
        assert total(store)[1:] == (read, read)
        store.drain()
        assert total(store) == (sum(range(60)), 60, 60)


def test_latest_is_decided_once_whatever_is_declared_later(project: Project) -> None:
    with project.write("latest") as store:
        send(store, 1, 2)
        store.drain()
        send(store, 4)
    with project.write("earliest") as store:
        store.drain()
        assert total(store) == (4, 1, 1)


def test_a_push_after_which_the_stream_starts_is_not_left_out(project: Project) -> None:
    with project.write("latest") as store:
        send(store, 1, 2)
        pushed = store.push("events", [{"customer": "C", "at": "2026-01-01T00:00:00Z", "amount": 4}], 20.0)
        assert pushed.servable
        assert total(store) == (4, 1, 1)


def test_an_instant_begins_at_the_first_record_from_then_on(
    project: Project, request: pytest.FixtureRequest
) -> None:
    is_mock = "mock_broker" in request.node.name
    with project.write() as store:
        send(store, 1, 2, 4)
    time.sleep(0.01)  # record times are milliseconds
    moment = instants.format_instant(instants.now() // 1000 * 1000)
    with project.write(f'"{moment}"') as store:
        send(store, 8, 16, 32, 64)
        if is_mock:
            with pytest.raises(OperatorError, match="Write start: earliest or start: latest"):
                store.drain()
        else:
            store.drain()
            assert total(store) == (120, 4, 4)


def test_an_instant_that_no_record_has_reached_is_the_end(
    project: Project, request: pytest.FixtureRequest
) -> None:
    if "mock_broker" in request.node.name:
        pytest.skip("librdkafka's broker knows no record by its time")
    with project.write('"2999-01-01T00:00:00Z"') as store:
        send(store, 1, 2)
        store.drain()
        send(store, 4)
        store.drain()
        assert total(store) == (4, 1, 1)


def test_a_partition_that_is_added_begins_at_its_first_record(
    project: Project, request: pytest.FixtureRequest
) -> None:
    if "mock_broker" in request.node.name:
        pytest.skip("librdkafka's broker adds no partitions")
    with project.write("latest") as store:
        send(store, *range(10))
        store.drain()
    add_partitions(project, request)
    with project.write("latest", partitions=7) as store:
        await_partitions(store, 7)
        send(store, *(100 + n for n in range(40)))
        store.drain()
        assert total(store) == (sum(range(100, 140)), 40, 40)


@pytest.mark.kafka
def test_partitions_that_are_added_just_after_a_stream_listed_them_are_noticed(
    tmp_path: Path, kafka: KafkaBroker, request: pytest.FixtureRequest
) -> None:
    project = Project(tmp_path, kafka.config, kafka.create_topic(partitions=4))
    with project.write() as store:
        topic = store.environment.stream(store.catalog.source("events"))
        starts: list[str] = []
        jobs = _Jobs(store, "events", local.ENGINE)
        source = running._Source("events", topic, jobs, lambda: starts.append("anew"))
        source.make()
        read = topic.partitions()  # as the engine does, before anybody looks for more
        add_partitions(project, request)
        await_partitions(store, 7)
        source.found(topic.ends())
        assert len(read) == 4
        assert source.changed()
        assert starts == ["anew"]
        source.make()
        source.found(topic.ends())
        assert not source.changed()


@pytest.mark.kafka
def test_a_gap_that_retention_made_is_accepted_by_the_operator(tmp_path: Path, kafka: KafkaBroker) -> None:
    """The stream ends, for events are lost; it goes on once somebody has said so."""
    project = Project(tmp_path, kafka.config, kafka.create_topic(partitions=1))
    with project.write() as store:
        send(store, 1, 2)
        store.drain()
        send(store, 4, 8, 16)
        kafka.delete_records(project.topic, 0, 4)
        with pytest.raises(OperatorError, match="records 2 to 3 are no longer in the topic") as caught:
            store.drain()
        assert "featurestore accept-topic" in str(caught.value)
        assert list(store.accept_topic("events").values()) == [4]
        assert store.accept_topic("events") == {}
        store.drain()
        assert total(store) == (1 + 2 + 16, 3, 3)


def add_partitions(project: Project, request: pytest.FixtureRequest) -> None:
    """Give a Kafka topic 7 partitions; a log has them with its next declaration."""
    if not project.has_partitions:
        broker: KafkaBroker = request.getfixturevalue("kafka")
        admin = broker._admin()
        admin.create_partitions([NewPartitions(project.topic, 7)])[project.topic].result(15)


def await_partitions(store: FeatureStore, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(store.environment.stream(store.catalog.source("events")).partitions()) < count:
        assert time.monotonic() < deadline


def test_rows_of_a_changed_schema_begin_where_the_first_did(project: Project) -> None:
    with project.write("latest") as store:
        send(store, 1, 2)
        store.drain()
        send(store, 4, 8)
        store.drain()
    with project.write("latest", columns=", shop: string") as store:
        store.drain()
        store.materialize("spending")
        assert total(store) == (12, 2, 2)  # those two were read again, and not the four


def test_a_version_that_comes_later_reaches_far_offsets_at_once(tmp_path: Path) -> None:
    """A topic may be at offset five billion when its stream begins."""
    project = Project(tmp_path, {"kind": "log", "path": str(tmp_path / "log")}, "events", True)
    with project.write() as store:
        source = store.catalog.source("events")
        landing = store.environment.offline.table(tables.landing_table(source))
        names = store.environment.stream(source).partitions()
        from featurestore.beginning import _empty

        landing.append(None, _empty(source).to_arrow(), dict.fromkeys(names, 5_000_000_000))
        job = _Jobs(store, "events", local.ENGINE).job()
        started = time.monotonic()
        catch_up(job)
        assert time.monotonic() - started < 20
        assert {name: job.targets[0].writers[0].lowest(name) for name in names} == dict.fromkeys(
            names, 5_000_000_000
        )


def test_a_log_made_anew_stops_the_stream_until_it_is_accepted(tmp_path: Path) -> None:
    project = Project(tmp_path, {"kind": "log", "path": str(tmp_path / "log")}, "events", True)
    with project.write() as store:
        send(store, 1, 2, 4)
        store.drain()
    shutil.rmtree(tmp_path / "log" / "events")
    check_another_topic(project.write)


@pytest.mark.kafka
def test_a_kafka_topic_made_anew_stops_the_stream_until_it_is_accepted(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    from test_stream_sources_kafka import _recreate

    project = Project(tmp_path, kafka.config, kafka.create_topic())
    with project.write() as store:
        send(store, 1, 2, 4)
        store.drain()
    kafka.delete_topic(project.topic)
    _recreate(kafka, project.topic)
    check_another_topic(project.write)


@pytest.mark.kafka
def test_another_cluster_stops_the_stream_until_it_is_accepted(tmp_path: Path) -> None:
    old, new = start_mock_broker(), start_mock_broker()
    for broker in (old, new):
        broker.create_topic("events")
    project = Project(tmp_path, old.config, "events")
    with project.write() as store:
        send(store, 1, 2, 4)
        store.drain()
    project.stream = new.config
    if old_id(old) == old_id(new):
        pytest.skip("librdkafka gave both brokers one cluster id")
    check_another_topic(project.write)
    for broker in (old, new):
        broker.stop()


def old_id(broker: KafkaBroker) -> str:
    from featurestore_connectors.kafka import KafkaStream

    stream = KafkaStream(broker.config, "events")
    try:
        return stream.partitions()[0]
    finally:
        stream.close()


def check_another_topic(write: Callable[[], FeatureStore]) -> None:
    """Over three rows of the topic before: an error until accepted, then all rows of both, once."""
    with write() as store:
        send(store, 8, 16)
        for _ in range(2):
            with pytest.raises(OperatorError, match="is another one than before") as error:
                store.drain()
            assert not error.value.retryable
            assert "featurestore accept-topic events" in str(error.value)
        assert total(store) == (7, 3, 3)
        assert set(store.accept_topic("events").values()) == {0}
        assert store.accept_topic("events") == {}
        store.drain()
        assert total(store) == (31, 5, 5)


def test_a_new_topic_may_be_accepted_from_its_end(tmp_path: Path) -> None:
    project = Project(tmp_path, {"kind": "log", "path": str(tmp_path / "log")}, "events", True)
    with project.write() as store:
        send(store, 1)
        store.drain()
    shutil.rmtree(tmp_path / "log" / "events")
    with project.write() as store:
        send(store, 2, 4)
        assert sum(store.accept_topic("events", "latest").values()) == 2
        send(store, 8)
        store.drain()
        assert total(store) == (9, 2, 2)


@pytest.mark.parametrize("start", ["newest", "2026-01-01T00:00:00"])
def test_a_start_that_is_none_is_the_authors_error(tmp_path: Path, start: str) -> None:
    project = Project(tmp_path, {"kind": "log"}, "events")
    with pytest.raises(SpecError, match=r"specs.yaml:9: stream: start: ") as error:
        project.write(f'"{start}"')
    assert "2026-01-01T00:00:00Z" in str(error.value)


def test_sources_that_share_a_topic_have_their_own_dead_letters(tmp_path: Path) -> None:
    """What is no event of either is refused by both, whichever commits first, and once."""
    project = Project(tmp_path, {"kind": "log", "path": str(tmp_path / "log")}, "events", True)
    project.write().close()
    other = SPEC.format(topic="events", start="earliest", options=", options: {partitions: 2}", columns="")
    other = "kind: Source" + other.split("kind: Source")[1].split("---")[0]
    other = other.replace("name: events", "name: others").replace("amount: int64", "amount: bool")
    other += "---\nkind: FeatureSet\nname: flags\nentities: [customer]\nsource: others\n"
    (tmp_path / "others.yaml").write_text(other)
    with FeatureStore(tmp_path) as store:
        store.apply()
        send(store, 1, 2, 4)
        topic = store.environment.stream(store.catalog.source("events"))
        topic.append([(None, b"neither"), (None, b"nor")])
        for _ in range(2):
            store.drain()
        assert total(store) == (7, 3, 3)
        table = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = table.snapshot()
        assert snapshot is not None
        letters = table.lazy(snapshot, ["source", "code"]).collect().sort("source", "code").rows()
        assert (
            letters
            == [("events", "malformed")] * 2 + [("others", "bad_type")] * 3 + [("others", "malformed")] * 2
        )
