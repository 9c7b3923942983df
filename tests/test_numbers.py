"""-0.0 is 0.0 wherever a value comes out: offline, online, of a row in a request (DESIGN 3.7)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from parity import write_project

from featurestore import FeatureStore
from featurestore.aggregates import FUNCTIONS, told
from featurestore.aggregates.layout import Values
from featurestore.types import FLOAT64

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
event_id: id
schema: {id: string, customer: string, at: timestamp, amount: float64}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
history: all
steps: [{select: [amount]}]
aggregations:
  - {column: amount, functions: [sum, avg, min, max, first, last], windows: [1h]}
  - {column: amount, functions: [count_distinct], windows: [1h]}
---
kind: FeatureVector
name: scored
base: spending
features: [spending.*]
"""

AT = "2026-03-01T10:00:00Z"


def signs(values: dict[str, Any]) -> set[float]:
    """Return the signs of the zeros."""
    return {math.copysign(1.0, value) for value in values.values() if isinstance(value, float)}


@pytest.mark.parametrize("amounts", [[-0.0], [0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]])
def test_negative_zero_is_zero_offline_and_online(tmp_path: Path, amounts: list[float]) -> None:
    instant = pl.Series([AT]).str.to_datetime(time_unit="us", time_zone="UTC")[0]
    frame = pl.DataFrame(
        {
            "id": [str(n) for n in range(len(amounts))],
            "customer": ["c"] * len(amounts),
            "at": [instant] * len(amounts),
            "amount": amounts,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    with FeatureStore(write_project(tmp_path, SPECS, "project: p\n")) as store:
        store.apply()
        store.ingest("orders", frame)
        vector = store.vector(["spending.*"])
        online = vector.get_online([{"customer": "c"}], as_of=AT).to_dicts()[0]
        offline = vector.get_offline(pl.DataFrame({"customer": ["c"], "event_timestamp": [instant]}))
        scored = store.vector("scored").get_online([{"id": "new", "customer": "c", "at": AT, "amount": -0.0}])
    trained = offline.to_polars().row(0, named=True)
    aggregates = {name: value for name, value in trained.items() if name.startswith("amount_")}
    assert signs(aggregates) == {1.0}
    assert signs(online) == {1.0}
    assert signs(scored.to_dicts()[0]) == {1.0}
    assert trained["amount_count_distinct_1h"] == online["amount_count_distinct_1h"] == 1


@pytest.mark.parametrize(("function", "low"), [("sum", [0, 0]), ("avg", [0, 0])])
def test_a_sum_of_nothing_and_of_what_cancels_is_positive_zero(function: str, low: list[int]) -> None:
    rows = Values.of(np.array([-1.5, 1.5]), None, np.zeros(2, np.int64))
    given = told(function, FLOAT64, {})
    parts = [
        rows.reduce(state, np.array(low), np.array([0, 2])) for state in FUNCTIONS[function].states(given)
    ]
    values, found = FUNCTIONS[function].finish(parts, given, np.zeros(2, np.int64))
    assert [math.copysign(1.0, value) for value in values[found].tolist()] == [1.0] * int(found.sum())
    assert found.tolist() == [function == "sum", True]
