"""A small project for tests: payments of customers, on SQLite and the embedded log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from featurestore import FeatureStore

SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
ingest_time: seen
event_id: id
schema: {id: string, customer: int64, at: timestamp, seen: timestamp, amount: float64, shop: string}
batch: {kind: parquet, path: "data/*.parquet"}
stream: {topic: payments}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
history: all
steps:
  - derive: {large: "amount > 50"}
aggregations:
  - {column: amount, functions: [sum, count, max, std], windows: [1h, 1d]}
  - {column: shop, functions: [count_distinct, last], windows: [1d]}
---
kind: FeatureVector
name: risk
features: [spend.*]
"""
CONFIG = """
project: shop
online: {kind: sqlite}
stream: {kind: log}
"""
START = datetime(2026, 3, 1, tzinfo=UTC)


def make_project(folder: Path, specs: str = SPECS, config: str = CONFIG) -> Path:
    """Write a project's files; return its folder."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "featurestore.yaml").write_text(config)
    (folder / "specs.yaml").write_text(specs)
    return folder


def payment(number: int, customer: int | None = 1, minutes: float = 0, **values: Any) -> dict[str, Any]:
    """Return one payment, `minutes` after START, seen when it happened unless told otherwise."""
    at = START + timedelta(minutes=minutes)
    row = {"id": f"p{number}", "customer": customer, "at": at, "seen": at, "amount": 10.0, "shop": "a"}
    return row | values


def payments(count: int, customers: int = 7) -> pl.DataFrame:
    """Return payments of several customers, 7 minutes apart."""
    return pl.DataFrame(
        [
            payment(i, i % customers, 7.0 * i, amount=float(i % 90) + 0.1, shop="abc"[i % 3])
            for i in range(count)
        ],
        schema_overrides={"customer": pl.Int64},
    )


def open_project(folder: Path, **files: pl.DataFrame) -> FeatureStore:
    """Return the applied store of a project with these Parquet files in its data folder."""
    make_project(folder)
    for name, frame in files.items():
        frame.write_parquet(folder / "data" / f"{name}.parquet")
    store = FeatureStore(folder)
    store.apply()
    return store
