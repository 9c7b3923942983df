"""Avro topics of a project: pushed, streamed, served; the schema is the applied version's, not the file's."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from brokers import KafkaBroker
from test_rows_avro import written

from featurestore import FeatureStore

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: events
event_time: at
event_id: id
schema: {{id: string, customer: string, at: timestamp, amount: "decimal(9,2)"}}
stream: {{topic: {topic}, format: avro, schema: schemas/event.avsc{options}}}
---
kind: FeatureSet
name: spending
entities: [customer]
source: events
history: all
aggregations:
  - {{column: amount, functions: [sum, count], windows: [lifetime]}}
"""
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "customer", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    ],
}
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["log", pytest.param("kafka", marks=pytest.mark.kafka)])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project with an Avro topic, on the log and on a real Kafka."""
    stream, topic = {"kind": "log"}, "events"
    if request.param == "kafka":
        broker: KafkaBroker = request.getfixturevalue("kafka")
        stream, topic = broker.config, broker.create_topic()
    config = {"project": "shop", "online": {"kind": "sqlite"}, "stream": stream}
    (tmp_path / "featurestore.yaml").write_text(json.dumps(config))
    (tmp_path / "specs.yaml").write_text(SPECS.format(topic=topic, options=""))
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "event.avsc").write_text(json.dumps(SCHEMA))
    return tmp_path


def produce(store: FeatureStore, schema: Any, *ids: str, **more: Any) -> None:
    """Append messages as another producer writes them, of 1.50 each."""
    topic = store.environment.stream(store.catalog.source("events"))
    rows = [{"id": name, "customer": "C", "at": AT, "amount": "1.50", **more} for name in ids]
    topic.append([(None, written(schema, {**row, "amount": Decimal(row["amount"])})) for row in rows])


def total(store: FeatureStore) -> tuple[str, int]:
    names = ["spending.amount_sum_lifetime", "spending.amount_count_lifetime"]
    answer = store.get_online_features(names, [{"customer": "C"}]).to_dicts()[0]
    return str(answer["amount_sum_lifetime"]), answer["amount_count_lifetime"]


def test_pushed_and_produced_events_are_applied_once(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
        produce(store, SCHEMA, "a", "b")
        event = {"id": "c", "customer": "C", "at": "2026-01-01T00:00:00Z", "amount": "2.25"}
        refused = {**event, "amount": "2.255"}
        report = store.push("events", [event, refused, event], 20.0)
        assert (len(report.accepted), [item["index"] for item in report.refused]) == (2, [1])
        assert report.servable
        store.drain()
        assert total(store) == ("5.25", 3)


def test_an_applied_version_reads_on_when_the_file_is_gone_or_changed(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
    file = project / "schemas" / "event.avsc"
    other = {**SCHEMA, "fields": SCHEMA["fields"][::-1]}
    for number, change in enumerate((file.unlink, lambda: file.write_text(json.dumps(other)))):
        change()
        with FeatureStore(project) as store:
            produce(store, SCHEMA, f"a{number}", f"b{number}")
            store.drain()
            assert total(store)[1] == 2 * (number + 1)
            assert "definition" not in json.dumps(store.show("events"))


def test_another_schema_is_another_version_of_the_source_and_none_of_its_sets(project: Path) -> None:
    """Streams change over: later messages are read by it. What the sets have stays."""
    with FeatureStore(project) as store:
        store.apply()
        produce(store, SCHEMA, "a")
        store.drain()
        first = store.catalog.feature_set("spending")
    wider = {**SCHEMA, "fields": [{"name": "note", "type": "string"}, *SCHEMA["fields"]]}
    (project / "schemas" / "event.avsc").write_text(json.dumps(wider))
    with FeatureStore(project) as store:
        actions = {(item.kind, item.name): item.action for item in store.plan()}
        assert actions["Source", "events"] == "changed"
        assert actions["FeatureSet", "spending"] == "unchanged"
        store.apply()
        assert store.catalog.feature_set("spending").rows_fingerprint == first.rows_fingerprint
        produce(store, wider, "b", note="x")
        store.drain()
        assert total(store) == ("3.00", 2)
