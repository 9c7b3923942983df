"""Upkeep: what is due is done, by the project's settings, and what landing has lost is said."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from parity import write_project
from streams import streaming

from featurestore import FeatureStore, tables, upkeep
from featurestore.cli import main
from featurestore.errors import SpecError
from featurestore.instants import DAY, format_instant, now
from featurestore.specs import load_config

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: clicks
event_time: at
ingest_time: known
schema: {customer: string, at: timestamp, known: timestamp, amount: int64}
stream: {topic: clicks}
---
kind: FeatureSet
name: clicked
entities: [customer]
source: clicks
history: all
steps: [{derive: {doubled: "amount * 2"}}]
aggregations: [{column: amount, functions: [sum], windows: [1w]}]
"""


def a_project(root: Path, **settings: Any) -> Path:
    return write_project(root, SPECS, json.dumps({"project": "clicks", "upkeep": settings}))


def send(store: FeatureStore, days_ago: int, *values: bytes | int) -> None:
    at = format_instant(now() - days_ago * DAY)
    topic = store.environment.stream(store.catalog.source("clicks"))
    events = [
        value
        if isinstance(value, bytes)
        else json.dumps({"customer": "a", "at": at, "known": at, "amount": value}).encode()
        for value in values
    ]
    topic.append([(None, event) for event in events])


def landed(store: FeatureStore) -> list[int]:
    table = store.environment.offline.table(tables.landing_table(store.catalog.source("clicks")))
    snapshot = table.snapshot()
    assert snapshot is not None
    return sorted(table.lazy(snapshot).collect()["amount"])


def amounts(store: FeatureStore) -> list[int]:
    table = store.environment.rows_table(store.catalog.feature_set("clicked"))
    snapshot = table.snapshot()
    assert snapshot is not None
    return sorted(table.lazy(snapshot).collect()["amount"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("every: often", "upkeep.every"),
        ("landing: 3", "upkeep.landing"),
        ("dead_letters: never", "or forever"),
        ("compact: sometimes", "upkeep.compact"),
        ("vacuum: true", "vacuum"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text(f"project: clicks\nupkeep:\n  {line}\n")
    with pytest.raises(SpecError, match=said) as raised:
        load_config(tmp_path, environ={})
    assert "featurestore.yaml:3" in str(raised.value)


def test_old_rows_leave_landing_and_dead_letters_and_no_set(tmp_path: Path) -> None:
    with FeatureStore(a_project(tmp_path, landing="7d", dead_letters="30d")) as store:
        store.apply()
        send(store, 20, 1, 2)
        send(store, 1, 3)
        store.drain()
        store.upkeep()
        assert landed(store) == [3]
        assert amounts(store) == [1, 2, 3]
        assert store.upkept["rows_forgotten"] == 2
        assert (store.upkept["runs"], store.upkept["failures"]) == (1, 0)
        assert store.metrics()['featurestore_upkeep_total{what="rows_forgotten"}'] == 2
        send(store, 1, 4)
        store.drain()
        assert (landed(store), amounts(store)) == ([3, 4], [1, 2, 3, 4])


def test_what_landing_has_lost_is_said_by_plan_stream_and_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = a_project(tmp_path, landing="7d")
    with FeatureStore(root) as store:
        store.apply()
        send(store, 20, 1)
        send(store, 1, 2)
        store.drain()
        store.upkeep()
        (root / "specs.yaml").write_text(SPECS.replace("amount * 2", "amount * 3"))
        lost = format_instant((now() - 7 * DAY) // DAY * DAY)
        effects = [text for change in store.apply() for text in change.effects]
        assert any(f"will lack the stream's rows that became known before {lost}" in text for text in effects)
        with caplog.at_level(logging.WARNING):
            store.drain()
        assert "landing no longer has them" in caplog.text
        assert amounts(store) == [2]
        latest = store.catalog.feature_set("clicked").rows_fingerprint
        said = {record["rows_version"]: record.get("lacks_before") for record in store.status()}
        assert said[latest] == lost
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store.materialize("clicked")
        assert f"became known before {lost}" in caplog.text


def test_a_fit_says_what_landing_has_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = a_project(tmp_path, landing="7d")
    with FeatureStore(root) as store:
        store.apply()
        send(store, 20, 1)
        send(store, 1, 2, 4)
        store.drain()
        (root / "specs.yaml").write_text(
            SPECS.replace('derive: {doubled: "amount * 2"}', "scale: {column: amount}")
        )
        assert store.fit("clicked")["steps[0].amount"]["mean"] == 7 / 3
        assert "landing" not in caplog.text
        store.upkeep()
        with caplog.at_level(logging.WARNING):
            assert store.fit("clicked")["steps[0].amount"]["mean"] == 3.0
        assert "The fit of 'clicked' is without rows" in caplog.text


def test_a_set_that_had_the_rows_before_lacks_nothing(tmp_path: Path) -> None:
    with FeatureStore(a_project(tmp_path, landing="7d")) as store:
        store.apply()
        send(store, 20, 1)
        store.drain()
        store.upkeep()
        send(store, 1, 2)
        store.drain()
        assert [record.get("lacks_before") for record in store.status()] == [None]
        assert amounts(store) == [1, 2]


def test_files_stay_a_day_for_those_who_still_read_them(tmp_path: Path) -> None:
    with FeatureStore(a_project(tmp_path)) as store:
        store.apply()
        for number in range(3):
            send(store, 3, number)
            store.drain()
        table = store.environment.rows_table(store.catalog.feature_set("clicked"))
        before = table.snapshot()
        assert before is not None
        records = {record["table"]: record for record in store.upkeep()}
        name = tables.rows_table(store.catalog.feature_set("clicked"))
        assert (records[name]["files_compacted"], records[name]["files_deleted"]) == (3, 0)
        assert table.lazy(before).collect().height == 3
        for file in Path(tmp_path, ".featurestore/offline").rglob("*.parquet"):
            os.utime(file, (0, 0))  # that they are old is not enough: they were read a moment ago
        assert sum(record["files_deleted"] for record in store.upkeep()) == 0
        assert table.lazy(before).collect().height == 3


def test_a_failing_table_is_told_and_counted_and_holds_no_other_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with FeatureStore(a_project(tmp_path, landing="7d")) as store:
        store.apply()
        send(store, 20, 1, b"bad")
        store.drain()
        name = tables.rows_table(store.catalog.feature_set("clicked"))
        folder = Path(tmp_path, ".featurestore/offline", name)
        for file in folder.glob("*.parquet"):
            file.write_bytes(b"damaged")
        with caplog.at_level(logging.WARNING):
            records = {record["table"]: record for record in store.upkeep()}
        assert "cannot be compacted" in records[name]["error"]
        assert name in caplog.text
        assert landed(store) == []
        assert store.upkept["failures"] == 1
    assert main(["-C", str(tmp_path), "upkeep"]) == 1
    assert "cannot be compacted" in capsys.readouterr().err


def test_a_running_stream_does_its_upkeep_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for by what it does: the old row is gone while the stream runs, and the stream goes on."""
    root = a_project(tmp_path, every="100ms", landing="7d")
    with FeatureStore(root) as store:
        store.apply()
        send(store, 20, 1)
        store.drain()
        with streaming(root, "local") as running:
            send(store, 1, 2)
            running.await_records(1)
            running.await_that(lambda: landed(store) == [])
            send(store, 1, 3)
            running.await_records(2)
        assert (landed(store), amounts(store)) == ([2, 3], [1, 2, 3])


def test_never_is_never(tmp_path: Path) -> None:
    with FeatureStore(a_project(tmp_path, every="never", landing="7d")) as store:
        with upkeep.beside(store):
            pass
        assert store.upkept == {}
