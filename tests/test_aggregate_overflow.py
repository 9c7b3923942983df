"""A sum or difference that leaves its type is null, comes back as rows leave the window, and is counted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from served import SMALL, running

from featurestore import FeatureStore

CONFIG = "project: shop\nonline: {kind: sqlite}\nstream: {kind: log}\n"
SPECS = """
kind: Entity
name: customer
type: string
---
kind: Source
name: payments
event_time: at
schema: {customer: string, at: timestamp, units: int64, price: "decimal(38,0)", amount: float64}
batch: {kind: parquet, path: "data/*.parquet"}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
steps:
  - drop: [price]
aggregations:
  - {column: units, functions: [sum, diff, avg], windows: [1h]}
  - {column: price, functions: [sum], windows: [1h]}
  - {column: amount, functions: [sum, diff], windows: [1h]}
---
kind: FeatureVector
name: all
features: [spending.*]
"""
START = datetime(2024, 3, 1, tzinfo=UTC)
MOST = 2**63 - 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    folder: Path = tmp_path_factory.mktemp("shop")
    (folder / "data").mkdir()
    (folder / "featurestore.yaml").write_text(CONFIG)
    (folder / "specs.yaml").write_text(SPECS)
    rows = [
        ("a", START, -5, Decimal(1), 1e308),
        ("a", START + timedelta(minutes=30), MOST, Decimal(10**38 - 1), 1e308),
        ("a", START + timedelta(minutes=80), 7, Decimal(-3), 1.0),
    ]
    schema = {
        "customer": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "units": pl.Int64,
        "price": pl.Decimal(38, 0),
        "amount": pl.Float64,
    }
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "data" / "a.parquet")
    with FeatureStore(folder) as made:
        made.apply()
        made.ingest("spending")
        yield made


AT = [START + timedelta(minutes=minutes) for minutes in (-1, 0, 30, 80, 120)]
EXPECTED = {
    "units_sum_1h": [0, -5, MOST - 5, None, 7],
    "units_diff_1h": [None, None, None, 7 - MOST, None],
    "price_sum_1h": [Decimal(0), Decimal(1), None, Decimal(10**38 - 4), Decimal(-3)],
    "amount_sum_1h": [0.0, 1e308, float("inf"), 1e308, 1.0],
    "amount_diff_1h": [None, None, 0.0, -1e308, None],
}
OVERFLOWS = [0, 0, 2, 1, 0]  # at 30: the difference, and the sum of decimals; at 80: the sum of integers


def test_a_training_set_says_null_and_how_often(store: FeatureStore) -> None:
    asked = pl.DataFrame({"customer": ["a"] * 5, "event_timestamp": AT})
    training = store.vector("all").get_offline(asked)
    assert {name: training.to_polars()[name].to_list() for name in EXPECTED} == EXPECTED
    assert training.overflows == sum(OVERFLOWS)


def test_an_online_result_says_null_and_how_often(store: FeatureStore) -> None:
    for place, at in enumerate(AT):
        found = store.vector("all").get_online([{"customer": "a"}], as_of=at)
        got = dict(zip([f.name for f in found.columns], found.rows[0], strict=True))
        assert {name: got[name] for name in EXPECTED} == {name: v[place] for name, v in EXPECTED.items()}
        assert found.overflows == OVERFLOWS[place]


def test_the_service_counts_them(store: FeatureStore) -> None:
    with running(store, settings=SMALL) as service:
        for at in AT:
            service.online({"vector": "all", "rows": [{"customer": "a"}], "as_of": at.isoformat()})
        text = service.call("GET", "/metrics").body.decode()
    assert f"featurestore_overflows_total {sum(OVERFLOWS)}.0" in text.splitlines()
