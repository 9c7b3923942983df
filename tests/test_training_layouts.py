"""A training set is the same however its rows lie on disk: as they came, compacted, late, in many ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore_connectors.delta import compact, rewrite, scan
from featurestore_engines.batch import lookup

SPECS = """
kind: Entity
name: customer
type: string
---
kind: Source
name: payments
event_time: at
order_by: number
schema: {customer: string, at: timestamp, number: int64, amount: float64}
batch: {kind: parquet, path: "payments/*.parquet"}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
aggregations:
  - {column: amount, functions: [sum, count, max, last], windows: [3h, 30h]}
---
kind: FeatureVector
name: everything
features: [spend.*]
---
kind: FeatureVector
name: windows
features: [spend.amount_sum_3h, spend.amount_max_3h]
"""
BEGIN = datetime(2026, 1, 30, tzinfo=UTC)  # rows fall into two months
HOURS = 96


@pytest.fixture(params=["as they came", "compacted", "compacted twice, then late rows", "in few ranges"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FeatureStore, list[dict[str, Any]]]]:
    """A store of rows at whole half hours, so that many are of one entity and instant."""
    if request.param != "in few ranges":
        monkeypatch.setattr(lookup, "_ROWS_AT_ONCE", 40)
        monkeypatch.setattr(scan, "_ROWS_AT_MOST", 200)
    monkeypatch.setattr(compact, "ROWS_PER_FILE", 150)
    monkeypatch.setattr(rewrite, "ROW_GROUP", 50)
    rows = [
        {
            "customer": f"c{(i * i) % 37}",
            "at": BEGIN + timedelta(minutes=30 * ((i * 7919) % (2 * HOURS))),
            "number": (i * 31) % 1009,
            "amount": round(math.sin(i) * 100, 2),
        }
        for i in range(1000)
    ]
    (tmp_path / "featurestore.yaml").write_text("project: layouts\n")
    (tmp_path / "specs.yaml").write_text(SPECS)
    (tmp_path / "payments").mkdir()
    made = FeatureStore(tmp_path)
    made.apply()
    for file in range(4):
        pl.DataFrame(rows[file::4]).write_parquet(tmp_path / "payments" / f"{file}.parquet")
        made.ingest("spend")
        if (request.param == "compacted" and file == 3) or (request.param.endswith("late rows") and file < 2):
            made.compact("spend")
    yield made, rows
    made.close()


def asked() -> pl.DataFrame:
    """Return questions in no order: known and unknown entities, and none."""
    keys = [None if i % 41 == 0 else f"c{(i * 5) % 43}" for i in range(300)]
    times = [BEGIN + timedelta(minutes=(i * 6997) % (60 * HOURS)) for i in range(300)]
    return pl.DataFrame({"customer": keys, "event_timestamp": times})


def seen(rows: list[dict[str, Any]], key: str | None, at: datetime) -> list[dict[str, Any]]:
    mine = [row for row in rows if row["customer"] == key and row["at"] <= at]
    return sorted(mine, key=lambda row: (row["at"], row["number"]))


def test_every_row_is_found_in_its_order(store: tuple[FeatureStore, list[dict[str, Any]]]) -> None:
    made, rows = store
    frame = asked()
    found = made.get_offline_features("everything", frame).to_polars()
    assert found.select(frame.columns).equals(frame)
    for row in found.iter_rows(named=True):
        mine = seen(rows, row["customer"], row["event_timestamp"])
        assert row["amount"] == (mine[-1]["amount"] if mine else None)
        assert row["number"] == (mine[-1]["number"] if mine else None)
        for hours in (3, 30):
            start = row["event_timestamp"] - timedelta(hours=hours)
            values = [each["amount"] for each in mine if each["at"] > start]
            assert row[f"amount_count_{hours}h"] == len(values)
            assert row[f"amount_sum_{hours}h"] == math.fsum(values)
            assert row[f"amount_max_{hours}h"] == max(values, default=None)
            assert row[f"amount_last_{hours}h"] == (values[-1] if values else None)


def test_rows_that_no_window_reaches_are_not_read(
    store: tuple[FeatureStore, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those within the widest window of the first instant are; all where a newest row is asked for."""
    made, rows = store
    late = asked().filter(pl.col("event_timestamp") > BEGIN + timedelta(hours=80))
    read: list[tuple[int, int]] = []
    true = lookup.TableReader.read

    def noted(self: Any, *given: Any, event_times: tuple[int, int], **more: Any) -> pl.DataFrame:
        read.append(event_times)
        return true(self, *given, event_times=event_times, **more)

    monkeypatch.setattr(lookup.TableReader, "read", noted)
    found = made.get_offline_features("windows", late).to_polars()
    first = (BEGIN + timedelta(hours=77)).timestamp() * 1e6
    assert min(low for low, _ in read) >= first
    for row in found.iter_rows(named=True):
        mine = seen(rows, row["customer"], row["event_timestamp"])
        start = row["event_timestamp"] - timedelta(hours=3)
        assert row["amount_sum_3h"] == math.fsum(each["amount"] for each in mine if each["at"] > start)
    read.clear()
    kept = made.get_offline_features("windows", late, join="inner").to_polars()
    assert kept.height == sum(bool(seen(rows, key, at)) for key, at in late.iter_rows())
    assert max(low for low, _ in read) < -(2**60)


def test_there_are_as_many_ranges_as_the_layout_lets_be_read_alone() -> None:
    def ranges(compacted: int, loose: int) -> int:
        paths = {
            "path": ["compacted/2026-01/a-0.parquet", "part-0.parquet"],
            "num_records": [compacted, loose],
        }
        found = scan.ranges(pl.DataFrame(paths), 500_000)
        assert [low for low, _ in found] == [0] + [high for _, high in found[:-1]]
        assert found[-1][1] == 256
        return len(found)

    assert ranges(0, 0) == 1
    assert ranges(10_000_000, 0) == 32
    assert ranges(10**9, 0) == 256
    assert ranges(0, 10_000_000) == 1
    assert ranges(0, 100_000_000) == 8
    assert ranges(9_000_000, 1_000_000) == 16
