"""A scan of an offline table yields exactly the rows asked for, and opens only files that may hold some."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.contracts import Snapshot
from featurestore.errors import OperatorError, RequestError, SpecError
from featurestore.instants import ALWAYS, HOUR, LAST
from featurestore.types import DataType, Field
from featurestore_connectors.delta import DeltaOfflineStore, DeltaTable

SCHEMA = pa.schema(
    [
        ("__key", pa.binary()),
        ("__shard", pa.int16()),
        ("__event_time", pa.timestamp("us", "UTC")),
        ("__partition", pa.string()),
        ("__sequence", pa.int64()),
        ("value", pa.uint8()),
    ]
)


def rows(plain: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(plain, SCHEMA)


def sequences(table: DeltaTable, snapshot: Snapshot, **asked: Any) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for batch in table.scan(snapshot, ["__partition", "__sequence"], **asked):
        assert batch.schema.names == ["__partition", "__sequence"]
        found += zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
    return sorted(found)


@pytest.fixture
def table(tmp_path: Path) -> DeltaTable:
    return DeltaOfflineStore({"path": str(tmp_path)}).table("rows")


@pytest.fixture
def data(table: DeltaTable) -> tuple[Snapshot, list[dict[str, Any]]]:
    """Three commits of rows of two partitions, spread over shards and times, then one without rows."""
    chance = random.Random(7)
    everything, snapshot = [], None
    for commit in range(3):
        part = [
            {
                "__key": b"k",
                "__shard": chance.randrange(256),
                "__event_time": commit * HOUR + chance.randrange(HOUR),
                "__partition": f"p{number % 2}",
                "__sequence": commit * 100 + number // 2,
                "value": chance.randrange(256),
            }
            for number in range(200)
        ]
        everything += part
        snapshot = table.append(snapshot, rows(part), {"p0": commit * 100 + 100, "p1": commit * 100 + 100})
    snapshot = table.append(snapshot, rows([]), {"digest:x": 1})
    assert snapshot is not None
    return snapshot, everything


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, lambda s, t, p, n: True),
        ({"shards": (10, 64)}, lambda s, t, p, n: 10 <= s < 64),
        ({"shards": (0, 0)}, lambda s, t, p, n: False),
        ({"cut": {"p0": 150}}, lambda s, t, p, n: p == "p0" and n < 150),
        ({"cut": {"p0": 1, "p1": 300, "digest:x": 1}}, lambda s, t, p, n: n < 1 or p == "p1"),
        ({"cut": {}}, lambda s, t, p, n: False),
        ({"since": {"p1": 250}}, lambda s, t, p, n: p == "p1" and n >= 250),
        ({"since": {"p1": 90}, "cut": {"p1": 110}}, lambda s, t, p, n: p == "p1" and 90 <= n < 110),
        ({"event_times": (HOUR // 2, 3 * HOUR // 2)}, lambda s, t, p, n: HOUR <= 2 * t < 3 * HOUR),
        ({"event_times": (ALWAYS, LAST)}, lambda s, t, p, n: True),
    ],
)  # fmt: skip
def test_a_scan_yields_the_rows_asked_for(
    table: DeltaTable, data: tuple[Snapshot, list[dict[str, Any]]], asked: dict[str, Any], wanted: Any
) -> None:
    snapshot, everything = data
    expected = sorted(
        (row["__partition"], row["__sequence"])
        for row in everything
        if wanted(row["__shard"], row["__event_time"], row["__partition"], row["__sequence"])
    )
    assert sequences(table, snapshot, **asked) == expected


def test_a_scan_without_columns_has_all_of_them_with_declared_types(
    table: DeltaTable, data: tuple[Snapshot, list[dict[str, Any]]]
) -> None:
    snapshot, everything = data
    found = pa.Table.from_batches(table.scan(snapshot, schema=[Field("value", DataType.parse("uint8"))]))
    assert found.schema.names == SCHEMA.names
    assert found.schema.field("value").type == pa.uint8()
    assert sorted(found["value"].to_pylist()) == sorted(row["value"] for row in everything)
    assert table.rows(snapshot) == len(everything) == 600


def test_a_scan_comes_in_batches_of_bounded_size(
    table: DeltaTable, data: tuple[Snapshot, list[dict[str, Any]]]
) -> None:
    sizes = [batch.num_rows for batch in table.scan(data[0], ["value"], batch_rows=50)]
    assert sum(sizes) == 600
    assert max(sizes) <= 200


def test_files_that_cannot_hold_wanted_rows_are_not_opened(
    table: DeltaTable, data: tuple[Snapshot, list[dict[str, Any]]]
) -> None:
    snapshot, everything = data
    files = table.files(snapshot)
    assert len(files) == 3
    ranges = {}
    for file in files:
        ranges[file] = min(pq.read_table(file)["__sequence"].to_pylist())
    for file, first in ranges.items():
        if first != 100:
            Path(file).unlink()
    middle = [row for row in everything if 100 <= row["__sequence"] < 200]
    low, high = HOUR + HOUR // 100, 2 * HOUR - HOUR // 100
    expected = sorted(
        (row["__partition"], row["__sequence"]) for row in middle if low <= row["__event_time"] < high
    )
    assert sequences(table, snapshot, event_times=(low, high)) == expected
    with pytest.raises(OperatorError, match="'rows' cannot be read at version 3"):
        sequences(table, snapshot)


@pytest.mark.parametrize("instant", [ALWAYS, -1, -999, 0, 1_700_000_000_123_456, LAST])
def test_rows_are_found_at_instants_that_statistics_hold_in_milliseconds_only(
    table: DeltaTable, instant: int
) -> None:
    row = {"__shard": 1, "__event_time": instant, "__partition": "p", "__sequence": 0}
    snapshot = table.append(None, rows([row]), {"p": 1})
    assert snapshot is not None
    assert sequences(table, snapshot, event_times=(instant, instant + 1)) == [("p", 0)]
    assert sequences(table, snapshot, event_times=(instant - 5000, instant)) == []


def test_tables_are_listed_by_name_and_only_those_that_exist(tmp_path: Path) -> None:
    for path in (str(tmp_path / "offline"), f"file://{tmp_path}/offline"):
        store = DeltaOfflineStore({"kind": "delta", "path": path})
        store.table("sets/payments-1f").append(None, rows([]), {})
        store.table("landing").append(None, rows([]), {})
        store.table("never-written").snapshot()
        assert store.tables() == ["landing", "sets/payments-1f"]
    assert DeltaOfflineStore({"path": "offline"}, root=tmp_path).tables() == ["landing", "sets/payments-1f"]
    assert DeltaOfflineStore({"path": "nothing"}, root=tmp_path).tables() == []


@pytest.mark.parametrize("name", ["", "../up", "/abs", "a//b", "a b", ".hidden", "a/"])
def test_a_table_name_that_would_leave_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="is no table name"):
        DeltaOfflineStore({"path": str(tmp_path)}).table(name)


def test_a_wrong_or_missing_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no option 'pth'\. Did you mean 'path'"):
        DeltaOfflineStore({"pth": "x"})
    with pytest.raises(SpecError, match="has no path"):
        DeltaOfflineStore({"kind": "delta"})
