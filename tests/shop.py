"""A small project with all that parity depends on, and its oracle: steps, derived values, imputes by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import oracle
import polars as pl
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from parity import compiled
from strategies import ORIGIN, floats, source_log, values

from featurestore.plans import SetPlan
from featurestore.rows.identity import row_hash

Row = dict[str, Any]

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
ingest_time: known_at
event_id: id
deleted: "units = 7"
schema:
  id: string
  customer: string
  shop: int64
  at: timestamp
  known_at: timestamp
  amount: float64
  units: int64
  kind: string
batch: {kind: parquet, path: "data/payments*.parquet"}
stream: {topic: payments}
---
kind: Source
name: visits
event_time: at
order_by: rank
deleted: "seconds > 90"
schema: {customer: string, at: timestamp, rank: int64, page: string, seconds: int64}
stream: {topic: visits}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
steps:
  - date_parts: {column: at, parts: [hour]}
  - map_values: {column: kind, mapping: {ab: b}}
  - derive: {double: "amount * 2"}
  - filter: "units is null or units not in (6, 7)"
  - drop: [shop]
aggregations:
  - {column: amount, functions: [sum, avg, min, max, var, last], windows: [1h, 2h]}
  - {column: units, where: "amount > 0", functions: [sum, count, first, count_distinct], windows: [2h]}
  - {by: kind, values: [a, b], functions: [count], windows: [2h]}
  - {column: units, name: recent, functions: [last_k], k: 3, windows: [2h]}
---
kind: FeatureSet
name: takings
entities: [shop]
source: payments
closed: left
ttl: 1h
history: all
steps:
  - select: [amount]
aggregations:
  - {functions: [count], windows: [1h]}
  - {column: amount, functions: [sum, std], windows: [2h], granularity: 30m, offset: 1h}
---
kind: FeatureSet
name: labels
entities: [customer]
source: payments
online: false
steps:
  - derive: {big: "amount > 5"}
  - select: [big]
---
kind: FeatureSet
name: browsing
entities: [customer]
source: visits
ttl: 2h
history: all
aggregations:
  - {column: seconds, functions: [sum, max], windows: [1h]}
  - {column: page, functions: [first, last, count_distinct], windows: [2h]}
---
kind: FeatureVector
name: scored
base: spending
features: [spending.*, browsing.page, browsing.seconds_sum_1h, "takings.* as shop_*"]
label: labels.big
derive: {spread: "spending.amount_max_2h - spending.amount_min_2h"}
impute: {spread: -1.0, page: none, units: 0}
---
kind: FeatureVector
name: profile
features:
  - spending.*
  - browsing.* as seen_*
  - {set: takings, features: ["*"], keys: {shop: favourite}, as: shop_*}
inputs: {bonus: int64}
derive: {with_bonus: "spending.units_sum_2h + bonus"}
impute: {seen_page: none}
"""

PROJECT = compiled(SPECS)
SETS = PROJECT.sets
SCORED, PROFILE = PROJECT.vectors["scored"], PROJECT.vectors["profile"]
CUSTOMERS = [f"c{number}" for number in range(9)]
SHOPS = [1, 2, 3, 2**40]
HOUR_US = 3600 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(t: int) -> datetime:
    """Return an instant of microseconds as a datetime."""
    return _EPOCH + timedelta(microseconds=t)


# Rows as producers send them


def payments(*, special: bool = True, **options: Any) -> SearchStrategy[list[Row]]:
    """Draw payments; without `special`, such as JSON can say."""
    given: dict[str, SearchStrategy[Any]] = {
        "shop": st.sampled_from([1, 2, 2**40, None]),
        "amount": st.one_of(st.none(), floats(special=special)),
        "kind": st.sampled_from(["a", "b", "ab", "é", None]),
        "units": st.one_of(values("int8"), values("int64"), st.just(7)),
    }
    return source_log(SETS["spending"], given=given, **options)


def visits(**options: Any) -> SearchStrategy[list[Row]]:
    """Draw visits."""
    given = {"rank": st.sampled_from([None, 0, 1]), "seconds": st.integers(0, 99)}
    return source_log(SETS["browsing"], given=given, **options)


def frame(source: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows of a source as a frame."""
    schema = {f.name: f.type.polars() for f in PROJECT.sources[source].schema}
    return pl.DataFrame(
        [pl.Series(n, [row[n] for row in rows], _physical(kind)).cast(kind) for n, kind in schema.items()]
    )


def _physical(kind: pl.DataType) -> pl.DataType:
    return pl.Int64() if isinstance(kind, pl.Datetime) else kind


def message(source: str, row: Mapping[str, Any]) -> bytes:
    """Return a row as a producer's JSON message."""
    said = {}
    for item in PROJECT.sources[source].schema:
        value = row[item.name]
        if value is not None and item.type.name == "timestamp":
            value = instant(value).isoformat()
        said[item.name] = value
    return json.dumps(said).encode()


def make_log(seed: int, count: int) -> tuple[list[Row], list[Row]]:
    """Return payments and visits made from a seed: ties, late rows, ids that come again."""
    rng = random.Random(seed)

    def moment() -> int:
        return ORIGIN + rng.randrange(60) * HOUR_US // 6 + rng.choice([0, 0, 0, 1, -1])

    paid: list[Row] = []
    for number in range(count):
        row = {
            "id": f"p{number}",
            "customer": rng.choice(CUSTOMERS),
            "shop": rng.choice([*SHOPS, None]),
            "at": moment(),
            "amount": rng.choice([None, 0.1, 0.2, 0.3, -2.5, 1e16, rng.uniform(0, 100)]),
            "units": rng.choice([None, *range(10), 2**62]),
            "kind": rng.choice(["a", "b", "ab", "é", None]),
        }
        if paid and rng.random() < 0.1:  # the same event, said otherwise
            row |= {name: paid[-1][name] for name in ("id", "customer", "at")}
        if paid and rng.random() < 0.1:  # an earlier event, retracted
            row = rng.choice(paid) | {"units": 7}
        row["known_at"] = row["at"] + rng.choice([0, 0, 1, HOUR_US, HOUR_US - 1, 3 * HOUR_US])
        paid.append({f.name: row[f.name] for f in PROJECT.sources["payments"].schema})
    visited = [
        {
            "customer": rng.choice(CUSTOMERS),
            "at": moment(),
            "rank": rng.choice([None, 0, 1]),
            "page": rng.choice(["x", "y", None]),
            "seconds": rng.randrange(99),
        }
        for _ in range(count // 4)
    ]
    return paid, visited


def said(source: str, message: bytes) -> Row:
    """Return the row of a producer's JSON message."""
    row: Row = json.loads(message)
    for item in PROJECT.sources[source].schema:
        if row[item.name] is not None and item.type.name == "timestamp":
            row[item.name] = (datetime.fromisoformat(row[item.name]) - _EPOCH) // timedelta(microseconds=1)
    return row


# The oracle's rows


def facts(name: str, log: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return a set's rows of a log, after the steps, as the oracle reads them.

    Rows have their `__ingest_time` where the source has no column of it.
    """
    source = SETS[name].source
    made = []
    for row in log:
        after = _STEPS[name](row)
        if after is None:
            continue
        made.append(
            {
                **after,
                "__raw": row,
                "__set": name,
                "__key": after["shop" if name == "takings" else "customer"],
                "__event_time": row["at"],
                "__ingest_time": row["known_at"] if source.ingest_time else row["__ingest_time"],
                "__row_hash": row_hash(row, source.schema),
            }
        )
        if source.event_id:
            made[-1]["__event_id"] = row["id"]
            made[-1]["__deleted"] = row["units"] == 7
        else:
            made[-1]["__deleted"] = row["seconds"] is not None and row["seconds"] > 90
        if source.order_by:
            made[-1]["__order"] = row["rank"]
    return [row for row in made if row["__key"] is not None]


def _spending(row: Mapping[str, Any]) -> Row | None:
    if row["units"] == 6:
        return None
    amount, kind = row["amount"], row["kind"]
    return {
        **row,
        "at_hour": row["at"] // HOUR_US % 24,
        "kind": "b" if kind == "ab" else kind,
        "double": None if amount is None else amount * 2,
    }


_STEPS: dict[str, Callable[[Mapping[str, Any]], Row | None]] = {
    "spending": _spending,
    "takings": dict,
    "labels": lambda row: {**row, "big": _greater(row, 5)},
    "browsing": dict,
}


def _greater(row: Mapping[str, Any], limit: float) -> bool | None:
    return None if row["amount"] is None else not row["amount"] <= limit  # NaN is the greatest number


def predicate(expression: Any) -> Callable[[Mapping[str, Any]], bool | None]:
    """Return the twin of the one condition there is."""
    assert "amount" in expression.sql, expression.sql
    return lambda row: _greater(row, 0)


class Judge:
    """Expected vectors over logs of payments and visits."""

    def __init__(self, paid: Sequence[Row], visited: Sequence[Row] = ()) -> None:
        self.rows = {
            name: facts(name, visited if plan.source.name == "visits" else paid)
            for name, plan in SETS.items()
        }

    def set(self, name: str, key: Any, t: int, **options: Any) -> dict[str, oracle.Cell]:
        """Return every feature of a set."""
        return oracle.expected_cells(SETS[name], self.rows[name], key, t, predicate=predicate, **options)

    def profile(self, customer: Any, favourite: Any, bonus: int | None, t: int, **options: Any) -> Any:
        """Return the vector `profile`."""
        cells = self.set("spending", customer, t, **options)
        cells |= {f"seen_{name}": c for name, c in self.set("browsing", customer, t, **options).items()}
        cells |= {f"shop_{name}": c for name, c in self.set("takings", favourite, t, **options).items()}
        units = cells["units_sum_2h"].value
        total = None if units is None or bonus is None else units + bonus
        cells["with_bonus"] = oracle.Cell(total if total is None or -(2**63) <= total < 2**63 else None)
        return _imputed(cells, {"seen_page": "none"})

    def scored(self, row: Row, **options: Any) -> Any:
        """Return the vector `scored` of a raw payment; None where a filter leaves it out or it is deleted."""
        made = facts("spending", [row])
        if not made or made[0]["__deleted"]:
            return None
        t, customer = row["at"], row["customer"]
        cells = self.set("spending", customer, t, base=made[0], **options)
        seen = self.set("browsing", customer, t, **options)
        cells |= {"page": seen["page"], "seconds_sum_1h": seen["seconds_sum_1h"]}
        cells |= {f"shop_{name}": c for name, c in self.set("takings", row["shop"], t, **options).items()}
        high, low = cells["amount_max_2h"].value, cells["amount_min_2h"].value
        cells["spread"] = oracle.Cell(None if high is None or low is None else high - low)
        return _imputed(cells, {"spread": -1.0, "page": "none", "units": 0})

    def label(self, row: Row) -> bool | None:
        """Return the label of a payment: that of the same event."""
        same = [
            other
            for other in self.rows["labels"]
            if (other["__key"], other["__event_time"], other["__event_id"])
            == (row["customer"], row["at"], row["id"])
        ]
        if any(other["__deleted"] for other in same):
            return None
        return min(same, key=oracle.order_key)["big"] if same else None


def _imputed(cells: dict[str, oracle.Cell], constants: Mapping[str, Any]) -> dict[str, oracle.Cell]:
    for name, constant in constants.items():
        if cells[name].value is None:
            cells[name] = oracle.Cell(constant)
    return cells


def plans_of(source: str) -> list[SetPlan]:
    """Return the sets of a source."""
    return [plan for plan in SETS.values() if plan.source.name == source]
