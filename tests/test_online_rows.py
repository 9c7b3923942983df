"""What a row of a request gets does not depend on how many others there are, or on which."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.online.lookups import MANY

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: rows
event_time: at
schema: {customer: int64, at: timestamp, amount: float64, items: int64, note: string, raw: binary}
batch: {kind: parquet, path: rows.parquet}
---
kind: FeatureSet
name: plain
entities: [customer]
source: rows
---
kind: FeatureSet
name: windows
entities: [customer]
source: rows
steps: [{drop: [note, raw]}]
aggregations:
  - {column: amount, functions: [sum, avg, min, max, count, last], windows: [1h, 1d]}
  - {column: items, functions: [sum, avg, max], windows: [1h, 1d]}
---
kind: FeatureVector
name: all_plain
features: [plain.amount, plain.items, plain.note]
impute: {note: none}
---
kind: FeatureVector
name: all_windows
features: [windows.*]
---
kind: FeatureVector
name: both
features: [windows.amount_avg_1d, plain.raw, plain.amount]
"""
NOW = datetime.now(UTC).replace(microsecond=0)
ENTITIES = 60
HOT = (57, 58)
"""Entities of more rows than one leaf holds; all of the first one's have values."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    root = tmp_path_factory.mktemp("rows")
    (root / "featurestore.yaml").write_text(
        "project: rows\noffline: {kind: delta, path: offline}\nonline: {kind: sqlite, path: online.db}\n"
    )
    (root / "features.yaml").write_text(SPECS)
    rows = [
        {
            "customer": customer,
            "at": NOW - timedelta(minutes=7 * (customer + 1) * (number + 1) % 2000 + 1),
            "amount": None
            if customer % 7 == 3 or (customer == HOT[1] and number % 9 == 0)
            else 0.1 * customer + number,
            "items": None if customer % 5 == 1 and number == 0 else customer - number,
            "note": None if customer % 4 == 2 else f"note {customer}",
            "raw": b"\xc0" if customer % 3 else None,
        }
        for customer in range(ENTITIES)
        for number in range(700 if customer in HOT else customer % 4 + 1)
    ]
    schema = {"customer": pl.Int64, "at": pl.Datetime("us", "UTC"), "amount": pl.Float64, "items": pl.Int64}
    frame = pl.DataFrame(rows, schema | {"note": pl.String, "raw": pl.Binary})
    frame.write_parquet(root / "rows.parquet")
    with FeatureStore(Path(root)) as store:
        store.apply()
        for name in ("plain", "windows"):
            store.ingest(name)
        yield store


ASKED: list[dict[str, Any]] = [
    *({"customer": customer} for customer in range(ENTITIES)),
    {"customer": 10_000},
    {"customer": None},
    {"customer": "no number"},
    {},
    {"customer": 1, "unknown": 2},
    {"customer": Decimal("sNaN")},
    {"customer": Decimal("Infinity")},
    {"customer": pl.Series([1])},
]


@pytest.mark.parametrize("vector", ["all_plain", "all_windows", "both"])
@pytest.mark.parametrize("as_of", ["now", "one each"])
def test_a_row_among_many_gets_what_it_gets_alone(store: FeatureStore, vector: str, as_of: str) -> None:
    assert len(ASKED) > 2 * MANY
    reader = store.vector(vector)
    times = [NOW - timedelta(seconds=30 * n if as_of != "now" else 0) for n in range(len(ASKED))]
    found = reader.get_online(ASKED, as_of=times[0] if as_of == "now" else times)
    alone = [
        reader.get_online([row], as_of=t if as_of == "now" else [t])
        for row, t in zip(ASKED, times, strict=True)
    ]
    assert list(map(repr, found.rows)) == [repr(one.rows[0]) for one in alone]
    assert found.status == [one.status[0] for one in alone]
    assert found.errors == [one.errors[0] for one in alone]
    assert [error is not None for error in found.errors] == [False] * (ENTITIES + 2) + [True] * 6
    assert {"PRESENT", "INVALID"} < {status for row in found.status for status in row}


def test_rows_that_have_all_share_no_values(store: FeatureStore) -> None:
    reader = store.vector("all_plain")
    first = reader.get_online([{"customer": 0}, {"customer": 0}])
    first.rows[0][0] = "changed"
    assert first.rows[1][0] == 0.0
    first.status[0][0] = "changed"
    assert reader.get_online([{"customer": 0}]).status == [["PRESENT"] * 3]


def test_what_is_imputed_to_a_row_that_fails_is_not_seen_by_the_next_request(store: FeatureStore) -> None:
    reader = store.vector("all_plain")
    assert reader.get_online([{}]).rows == [[None] * 3]
    found = reader.get_online([{"customer": 10_000}])
    assert found.rows == [[None, None, "none"]]
    assert found.status == [["NOT_FOUND"] * 3]


def test_aggregates_of_one_hot_entity_or_a_few_are_not_made_by_arrays(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = store.vector("all_windows")
    expected = reader.get_online([{"customer": HOT[0]}], as_of=NOW)
    monkeypatch.setattr("featurestore.online.lookups.aggregates", None)
    found = reader.get_online([{"customer": HOT[0]}, {"customer": 0}, {"customer": HOT[0]}], as_of=NOW)
    assert found.rows[0] == found.rows[2] == expected.rows[0]
    assert expected.to_dicts()[0]["amount_count_1d"] > 100
    with pytest.raises(TypeError, match="not callable"):
        reader.get_online([{"customer": HOT[1]}], as_of=NOW)
