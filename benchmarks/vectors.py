"""The two vectors that works 8, 9 and 10 read, their rows, and the projects that serve them from Redis."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import SEED

FLOATS, INTEGERS, TEXTS = 30, 15, 5
PLAIN = [
    *(f"number_{i}" for i in range(FLOATS)),
    *(f"whole_{i}" for i in range(INTEGERS)),
    *(f"text_{i}" for i in range(TEXTS)),
]
"""The 50 features of the plain vector."""

FUNCTIONS = {
    "amount": ("sum", "avg", "min", "max", "count"),
    "items": ("sum", "avg", "max", "last"),
}
WINDOWS = {"1h": 3600, "1d": 86_400, "7d": 604_800}
"""Of the windowed vector, with their seconds: 9 aggregates in 3 windows."""

EVENTS = 40
"""How many events most entities have within the longest window."""

HOT = 0
"""The entity with the most events."""

_KINDS = {"number": "float64", "whole": "int64", "text": "string"}


def plain_rows(entities: int) -> pl.DataFrame:
    """Return one row per entity: 50 features of a row a minute ago."""
    random = np.random.default_rng(SEED)
    columns: dict[str, Any] = {"customer": np.arange(entities)}
    columns["at"] = np.full(entities, int(time.time()) * 1_000_000 - 60_000_000)
    for name in PLAIN:
        if name.startswith("number"):
            columns[name] = random.normal(100.0, 30.0, entities)
        elif name.startswith("whole"):
            columns[name] = random.integers(0, 100_000, entities)
        else:
            columns[name] = [f"category {i}" for i in random.integers(0, 500, entities)]
    return pl.DataFrame(columns).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def events(entities: int, hot: int) -> pl.DataFrame:
    """Return the events of the windowed set: `hot` of one entity, 40 of each other, over seven days."""
    random = np.random.default_rng(SEED)
    customer = np.concatenate([np.full(hot, HOT), np.repeat(np.arange(1, entities), EVENTS)])
    ago = random.integers(1, WINDOWS["7d"] * 999_000, len(customer))
    return pl.DataFrame(
        {
            "customer": customer,
            "at": int(time.time()) * 1_000_000 - ago,
            "amount": random.gamma(2.0, 30.0, len(customer)).round(2),
            "items": random.integers(1, 20, len(customer)),
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def prepare(folder: str, url: str, which: str, entities: int, hot: int = 0) -> dict[str, int]:
    """Write a project (plain or windowed) whose vector is `profile`, and fill its stores."""
    from featurestore import FeatureStore

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    (root / "featurestore.yaml").write_text(
        f"project: {which}\noffline: {{kind: delta, path: offline}}\nonline: {{kind: redis, url: '{url}'}}\n"
    )
    (root / "features.yaml").write_text(_plain_specs() if which == "plain" else _windowed_specs())
    rows = plain_rows(entities) if which == "plain" else events(entities, hot)
    rows.write_parquet(root / "rows.parquet")
    with FeatureStore(root) as store:
        store.apply()
        store.ingest("features")
    return {"rows": len(rows)}


def aggregate_names() -> list[str]:
    """Return the windowed vector's features, in order."""
    return [f"{c}_{f}_{w}" for c, functions in FUNCTIONS.items() for f in functions for w in WINDOWS]


_HEAD = """
kind: Entity
name: customer
type: int64
---
kind: FeatureVector
name: profile
features: [features.*]
---
kind: Source
name: rows
event_time: at
schema: {{customer: int64, at: timestamp, {columns}}}
batch: {{kind: parquet, path: rows.parquet}}
---
kind: FeatureSet
name: features
entities: [customer]
source: rows
"""


def _plain_specs() -> str:
    return _HEAD.format(columns=", ".join(f"{name}: {_KINDS[name.split('_')[0]]}" for name in PLAIN))


def _windowed_specs() -> str:
    windows = ", ".join(WINDOWS)
    lines = [
        f"  - {{column: {column}, functions: [{', '.join(functions)}], windows: [{windows}]}}"
        for column, functions in FUNCTIONS.items()
    ]
    drop = "steps: [{drop: [amount, items]}]\n"
    return _HEAD.format(columns="amount: float64, items: int64") + drop + "\n".join(["aggregations:", *lines])
