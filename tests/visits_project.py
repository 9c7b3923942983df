"""A small project of customers, the merchants that they pay, and their cities, for tests of look-ups."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from featurestore import FeatureStore

CONFIG = "project: chain\nonline: {kind: sqlite}\nstream: {kind: log}\n"
SPECS = """
kind: Entity
name: customer
---
kind: Entity
name: merchant
type: int64
---
kind: Entity
name: city
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: string, customer: string, merchant: float64, amount: float64, at: timestamp}
stream: {topic: payments}
batch: {kind: parquet, path: payments.parquet}
---
kind: Source
name: openings
event_time: at
event_id: id
schema: {id: string, merchant: int64, city: string, rating: int64, at: timestamp}
batch: {kind: parquet, path: openings.parquet}
stream: {topic: openings}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
aggregations:
  - {column: merchant, functions: [last], windows: [1d]}
  - {column: amount, functions: [sum], windows: [1d]}
---
kind: FeatureSet
name: merchants
entities: [merchant]
source: openings
history: all
ttl: 2d
aggregations:
  - {column: rating, functions: [count], windows: [1d]}
---
kind: FeatureSet
name: cities
entities: [city]
source: openings
history: all
steps:
  - select: [rating]
aggregations:
  - {column: rating, functions: [sum], windows: [7d]}
---
kind: FeatureVector
name: plain
features: [spending.amount_sum_1d, {set: merchants, features: [city], keys: {merchant: shop}}]
---
kind: FeatureVector
name: chain
features:
  - spending.amount_sum_1d
  - {set: merchants, features: [city, rating, rating_count_1d], keys: {merchant: spending.merchant_last_1d}}
  - {set: cities, features: [rating_sum_7d], keys: {city: merchants.city}, as: city_*}
impute: {city: nowhere}
---
kind: FeatureVector
name: ahead
features: [spending.amount_sum_1d]
label: {feature: spending.amount as amount_ahead, offset: 1d}
training: {where: "amount_sum_1d > 0", end: 2026-03-04T00:00:00Z, join: inner}
"""
START = datetime(2026, 3, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    """Return an instant that many hours after START."""
    return START + timedelta(hours=hours)


def payment(
    number: int, customer: str | None, merchant: float | None, hours: float, amount: float = 1.0
) -> Any:
    """Return a payment."""
    row = {"id": f"p{number}", "customer": customer, "merchant": merchant, "amount": amount}
    return row | {"at": at(hours)}


def opening(number: int, merchant: int, city: str | None, hours: float, rating: int = 1) -> Any:
    """Return a row of a merchant."""
    return {"id": f"o{number}", "merchant": merchant, "city": city, "rating": rating, "at": at(hours)}


PAYMENTS = [
    payment(1, "ann", 7.0, 1, 10.0),
    payment(2, "ann", 8.0, 5, 5.0),
    payment(3, "bob", 9.0, 2),  # a merchant without rows
    payment(4, "cid", 2.5, 2),  # no key of a merchant
    payment(5, "dan", None, 2),
    payment(6, "eve", 7.0, 2, -3.0),
    payment(7, "ann", 7.0, 70, 2.0),
]
OPENINGS = [
    opening(1, 7, "x", 0, 3),
    opening(2, 8, "y", 0, 4),
    opening(3, 8, "x", 6, 5),
    opening(4, 1, "z", 80),
]


def open_project(folder: Path) -> FeatureStore:
    """Return the applied and filled store of the project."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "featurestore.yaml").write_text(CONFIG)
    (folder / "specs.yaml").write_text(SPECS)
    pl.DataFrame(PAYMENTS).write_parquet(folder / "payments.parquet")
    pl.DataFrame(OPENINGS).write_parquet(folder / "openings.parquet")
    store = FeatureStore(folder)
    store.apply()
    for name in ("spending", "merchants", "cities"):
        store.ingest(name)
    return store


def asked(*rows: tuple[str | None, float]) -> pl.DataFrame:
    """Return entity rows of customers at hours after START."""
    return pl.DataFrame(
        {
            "customer": [c for c, _ in rows],
            "event_timestamp": [at(h) for _, h in rows],
            "note": range(len(rows)),
        },
        schema_overrides={"customer": pl.String},
    )
