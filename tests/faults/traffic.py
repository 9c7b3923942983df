"""Events in bulk, made from a seed: in and out of order, late, repeated, malformed, without keys.

`Traffic.valid` are the rows that a source admits, `Traffic.payloads()` what producers send. Ranks are unique
and random, so that which of two rows of one id counts does not depend on which arrived first. Amounts are
multiples of 1/4, so that sums of them are exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featurestore import instants

HOUR = 3600 * 1_000_000
SPAN = 48 * HOUR
"""The events lie in so many microseconds before `Traffic.end`."""

SPECS = """
kind: Entity
name: customer
---
kind: Entity
name: shop
type: int64
---
kind: Source
name: payments
event_time: at
event_id: id
order_by: rank
schema: {id: string, rank: int64, customer: string, shop: int64, at: timestamp,
         amount: float64, units: int64, kind: string}
stream: {topic: TOPIC, options: OPTIONS}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: 3d
aggregations:
  - {column: amount, functions: [sum, avg, max, last], windows: [1h, 24h]}
  - {column: units, functions: [sum, count, first], windows: [24h]}
  - {column: kind, functions: [count_distinct], windows: [24h]}
  - {functions: [count], windows: [1h, 24h]}
---
kind: FeatureSet
name: takings
entities: [shop]
source: payments
history: 3d
ttl: 12h
steps:
  - filter: "units is null or units <> 6"
  - derive: {double: "amount * 2"}
  - select: [double, kind]
aggregations:
  - {column: double, functions: [sum, max], windows: [2h]}
  - {functions: [count], windows: [24h]}
---
kind: FeatureVector
name: of_customer
features: [spending.*]
---
kind: FeatureVector
name: of_shop
features: [takings.*]
"""

_KINDS = [f"kind{number}" for number in range(12)]


def make_project(
    root: Path,
    online: Mapping[str, Any],
    *,
    stream: Mapping[str, Any] | None = None,
    topic: str = "payments",
    partitions: int | None = 3,
    commit: Mapping[str, Any] | None = None,
    offline: Mapping[str, Any] | None = None,
) -> Path:
    """Write the project; return its folder. `partitions` None leaves them to the broker."""
    root.mkdir(parents=True, exist_ok=True)
    config = {
        "project": "bulk",
        "online": dict(online),
        "offline": dict(offline or {"kind": "delta"}),
        "stream": dict(stream or {"kind": "log"}),
        "commit": dict(commit or {"every": "500ms", "rows": 20_000}),
    }
    options = {} if partitions is None else {"partitions": partitions}
    (root / "featurestore.yaml").write_text(json.dumps(config))  # YAML is a superset of JSON
    (root / "specs.yaml").write_text(SPECS.replace("TOPIC", topic).replace("OPTIONS", json.dumps(options)))
    return root


class Traffic:
    """`count` events of some customers and shops, in the order in which they are sent."""

    def __init__(self, seed: int, count: int, *, customers: int = 200, shops: int = 20) -> None:
        rng = np.random.default_rng(seed)
        self.end = instants.now() // HOUR * HOUR
        self.customers = [f"c{number}" for number in range(customers)]
        self.shops = list(range(shops))
        number = np.arange(count)
        at = self.end - SPAN + number * SPAN // count + rng.integers(-HOUR, 0, count)  # out of order
        late = rng.random(count) < 0.03
        at[late] -= rng.integers(0, SPAN // 2, int(late.sum()))
        at -= at % rng.choice([1, HOUR // 60], count)  # some fall together
        customer = np.minimum(rng.geometric(4 / customers, count) - 1, customers - 1)
        source = number.copy()  # an event that is sent again has the id, the customer and the time of another
        again = (rng.random(count) < 0.05) & (number > 0)
        source[again] = (number[again] * rng.random(int(again.sum()))).astype(np.int64)
        source = source[source]
        frame = pl.DataFrame(
            {
                "id": source,
                "rank": (number * 2_654_435_761) % 2**32,
                "customer": customer[source],
                "shop": rng.integers(0, shops, count),
                "at": at[source],
                "amount": rng.integers(-400, 4000, count) / 4,
                "units": rng.integers(0, 10, count),
                "kind": rng.integers(0, len(_KINDS), count),
                "fault": rng.choice([0, 1, 2, 3, 4], count, p=[0.99, 0.003, 0.003, 0.002, 0.002]),
            }
        )

        def holes(name: str, share: float) -> pl.Expr:
            return pl.when(pl.lit(rng.random(count)) >= share).then(pl.col(name)).alias(name)

        self.sent = frame.with_columns(
            holes("amount", 0.05), holes("units", 0.05), holes("kind", 0.05), holes("shop", 0.02)
        ).with_columns(
            pl.format("e{}", "id").alias("id"),
            pl.when(pl.col("id") % 50 != 0).then(pl.format("c{}", "customer")).alias("customer"),
            pl.when(pl.col("kind").is_not_null()).then(pl.format("kind{}", "kind")).alias("kind"),
            pl.from_epoch("at", time_unit="us").dt.replace_time_zone("UTC").alias("at"),
        )

    @property
    def valid(self) -> pl.DataFrame:
        """The rows that the source admits."""
        return self.sent.filter(pl.col("fault") == 0).drop("fault")

    @property
    def refused(self) -> list[bytes]:
        """The messages that it does not, sorted."""
        bad = self.sent.filter(pl.col("fault") != 0)
        return sorted(_message(row) for row in bad.iter_rows(named=True))

    def payloads(self, first: int, end: int) -> list[bytes]:
        """Return the messages from number `first` to before `end`."""
        return [_message(row) for row in self.sent[first:end].iter_rows(named=True)]


def _message(row: dict[str, Any]) -> bytes:
    fault = row.pop("fault")
    at = row["at"]
    row["at"] = at.isoformat()
    if fault == 1:
        row["at"] = None
    if fault == 2:
        row["units"] = "many"
    if fault == 3:
        row["at"] = at.replace(year=at.year + 5).isoformat()  # the future
    text = json.dumps(row).encode()
    return text[:-2] if fault == 4 else text
