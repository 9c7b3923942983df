"""Every aggregation of a declared set: the same in a training set, online, over HTTP, and to the oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import oracle
import polars as pl
import pyarrow as pa
import pytest
from served import SMALL, Service, running

from featurestore import FeatureStore
from featurestore.aggregates import FUNCTIONS, function_names

CONFIG = """
project: shop
online: {kind: sqlite}
stream: {kind: log}
"""
HEAD = """
kind: Entity
name: customer
type: string
---
kind: Source
name: payments
event_time: at
event_id: id
schema:
  id: string
  customer: string
  at: timestamp
  amount: float64
  units: int64
  price: decimal(10,2)
  wealth: decimal(38,4)
  shop: string
  paid: bool
  day: date
  seen: timestamp
  raw: binary
  codes: list<int64>
batch: {kind: parquet, path: "data/*.parquet"}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
steps:
  - drop: [wealth]
aggregations:
"""
TAIL = """
---
kind: FeatureVector
name: all
features: [spending.*]
"""
TYPES = {
    "amount": "float64",
    "units": "int64",
    "price": "decimal(10,2)",
    "wealth": "decimal(38,4)",
    "shop": "string",
    "paid": "bool",
    "day": "date",
    "seen": "timestamp",
    "raw": "binary",
    "codes": "list<int64>",
}
PARAMETERS = "k: 2, half_life: 1h, percentile: 0.9"
START = datetime(2024, 3, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def aggregation(column: str) -> str:
    """Return the aggregation of a column by every function that takes it, with the parameters they have."""
    from featurestore.types import DataType

    fitting = [f for f in FUNCTIONS.values() if f.accepts(DataType.parse(TYPES[column]))]
    having = {name for f in fitting for name in f.parameters}
    told = "".join(f", {text}" for text in PARAMETERS.split(", ") if text.split(":")[0] in having)
    names = ", ".join(f.name for f in fitting)
    return f"  - {{column: {column}, functions: [{names}], windows: [3h, lifetime]{told}}}\n"


SPECS = HEAD + "".join(map(aggregation, TYPES)) + TAIL


def rows() -> list[dict[str, Any]]:
    """Return payments of two customers, nulls and odd values among them."""
    made = []
    for number in range(40):
        at = START + timedelta(minutes=20 * number)
        made.append(
            {
                "id": f"p{number}",
                "customer": "ab"[number % 2],
                "at": at,
                "amount": None if number % 7 == 3 else [1e10 + number % 5, math.nan, -0.0][number > 36],
                "units": None if number % 5 == 1 else number * number % 23 - 7,
                "price": None if number == 9 else Decimal(number * 37 % 11 - 4).scaleb(-2),
                "wealth": Decimal(f"{10**33 + number}.1234") if number % 3 else Decimal("-0.0001"),
                "shop": [None, "", "é", "a", "b"][number % 5],
                "paid": [True, False, None][number % 3],
                "day": date(1969, 12, 30) + timedelta(days=number % 4),
                "seen": at - timedelta(seconds=number % 6),
                "raw": bytes([number % 3]),
                "codes": [number, None] if number % 2 else [],
            }
        )
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    folder: Path = tmp_path_factory.mktemp("shop")
    (folder / "data").mkdir()
    (folder / "featurestore.yaml").write_text(CONFIG)
    (folder / "specs.yaml").write_text(SPECS)
    schema = {"price": pl.Decimal(10, 2), "wealth": pl.Decimal(38, 4), "codes": pl.List(pl.Int64)}
    pl.DataFrame(rows(), schema_overrides=schema, strict=False).write_parquet(folder / "data" / "a.parquet")
    with FeatureStore(folder) as made:
        made.apply()
        made.ingest("spending")
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store, settings=SMALL) as started:
        yield started


INSTANTS = [START - timedelta(hours=1), START, START + timedelta(hours=5), START + timedelta(days=400)]


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def expected(store: FeatureStore, customer: str, t: int) -> dict[str, oracle.Cell]:
    plan = store.catalog.feature_set("spending")
    known = [
        {name: oracle._natural(value) for name, value in row.items()}
        | {
            "__key": row["customer"],
            "__event_time": micros(row["at"]),
            "__ingest_time": micros(row["at"]),
            "__row_hash": 0,
        }
        for row in rows()
    ]
    cells = oracle.expected_cells(plan, known, customer, t)
    return {a.name: cells[a.name] for a in plan.aggregates}


def disagreements(cells: dict[str, oracle.Cell], got: dict[str, Any]) -> dict[str, Any]:
    return {name: (cell, got[name]) for name, cell in cells.items() if not cell.agrees(got[name])}


def test_every_function_is_declared(store: FeatureStore) -> None:
    plan = store.catalog.feature_set("spending")
    assert {a.function for a in plan.aggregates} == set(function_names())


@pytest.mark.parametrize("at", INSTANTS, ids=["before", "first", "between", "long after"])
def test_online_is_what_the_oracle_says(store: FeatureStore, at: datetime) -> None:
    now = micros(at)
    reader = store.vector("all")
    found = reader.get_online([{"customer": "a"}, {"customer": "b"}, {"customer": "nobody"}], as_of=at)
    names = [f.name for f in found.columns]
    for customer, values in zip(["a", "b", "nobody"], found.rows, strict=True):
        got = {n: v for n, v in zip(names, values, strict=True) if "_" in n}
        assert not disagreements(expected(store, customer, now), got)


def test_a_training_set_is_what_the_oracle_says_in_the_declared_types(store: FeatureStore) -> None:
    asked = [{"customer": c, "event_timestamp": t} for c in ("a", "b", "nobody") for t in INSTANTS]
    training = store.vector("all").get_offline(pl.DataFrame(asked))
    frame = training.to_polars()
    plan = store.catalog.feature_set("spending")
    for feature in plan.features:
        assert frame.schema[feature.name] == feature.type.polars(), feature
    from featurestore.rows.values import series_row_values

    columns = {a.name: series_row_values(frame[a.name], a.type) for a in plan.aggregates}
    for number, question in enumerate(asked):
        cells = expected(store, question["customer"], micros(question["event_timestamp"]))
        assert not disagreements(cells, {name: values[number] for name, values in columns.items()})
    table = training.to_arrow()
    assert table.schema.field("shop_histogram_3h").type == pa.map_(pa.large_string(), pa.int64())
    assert dict(table["shop_histogram_lifetime"].to_pylist()[3]) == {"": 4, "a": 4, "b": 4, "é": 4}
    assert table["shop_histogram_lifetime"].to_pylist()[8:] == [None] * 4
    assert sum(batch.num_rows for batch in training.batches(5)) == 12


def test_online_and_offline_are_verified_equal(store: FeatureStore) -> None:
    found = store.verify(sample=60)
    assert found.is_equal, found.differences[:3]
    assert found.compared > 5000
    assert not found.skipped


def test_maps_come_over_http_as_objects_and_as_arrow_maps(store: FeatureStore, service: Service) -> None:
    names = ["spending.shop_histogram_lifetime", "spending.units_histogram_3h", "spending.day_histogram_3h"]
    names += ["spending.paid_histogram_3h", "spending.price_histogram_3h", "spending.raw_histogram_3h"]
    as_of = "2024-03-01T05:00:00Z"
    body = {"features": names, "rows": [{"customer": "b"}, {"customer": "nobody"}], "as_of": as_of}
    answer = service.online(body).json()
    assert answer["rows"][1] == [None] * 6
    shop, units, day, paid, price, raw = answer["rows"][0]
    assert shop == {"": 2, "a": 2, "b": 1, "é": 1}
    assert list(units) == [str(number) for number in sorted(map(int, units))]
    assert all(datetime.fromisoformat(text) for text in day)
    assert set(paid) <= {"true", "false"}
    assert all(Decimal(text) is not None and text.count(".") == 1 for text in price)
    assert set(raw) == {"AA==", "AQ==", "Ag=="}
    with FeatureStore.connect(service.url) as remote:
        there = remote.get_online_features(names, body["rows"], as_of=as_of)
    here = store.get_online_features(names, body["rows"], as_of=as_of)
    assert there.rows == here.rows
    assert there.columns == here.columns
    assert there.to_dicts() == here.to_dicts()
    assert there.to_arrow().equals(here.to_arrow())
    assert here.to_arrow().schema.field(0).type == pa.map_(pa.string(), pa.int64())
    assert here.to_dicts()[0]["day_histogram_3h"].keys() <= {
        date(1969, 12, 30) + timedelta(n) for n in range(4)
    }
