"""The smallest project with a window: customers, their orders, the sum of an hour."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from parity import INSTANT, compiled

from featurestore import plans
from featurestore.rows.door import admit
from featurestore.rows.transform import transform

PROJECT = compiled("""
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
schema: {customer: string, at: timestamp, amount: int64}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
history: all
aggregations:
  - {column: amount, functions: [sum], windows: [1h]}
---
kind: FeatureVector
name: spend
features: [spending.amount_sum_1h]
""")
PLAN = PROJECT.sets["spending"]
T = 1_767_225_600_000_000


def rows(
    customers: Sequence[str], amounts: Sequence[int], sequences: Sequence[int], partition: str = "p"
) -> pl.DataFrame:
    """Return transformed rows of orders, all at T, that stand at these places of a partition."""
    given = pl.DataFrame(
        {
            "customer": customers,
            "at": pl.Series([T] * len(customers), dtype=pl.Int64).cast(INSTANT),
            "amount": amounts,
            plans.PARTITION: [partition] * len(customers),
            plans.SEQUENCE: sequences,
        }
    )
    return transform(PLAN, admit(PLAN.source, given, now=T).rows).rows
