"""A project whose look-ups take their keys from one another, and its oracle, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import oracle
import polars as pl
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from parity import compiled
from strategies import HOUR, source_log

from featurestore.compiler.training import compile_condition
from featurestore.plans import Condition, SetPlan
from featurestore.rows.identity import row_hash

Row = dict[str, Any]

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
ingest_time: known_at
event_id: id
schema: {id: string, customer: string, merchant: float64, at: timestamp, known_at: timestamp, amount: int64}
batch: {kind: parquet, path: "data/payments*.parquet"}
---
kind: Source
name: openings
event_time: at
schema: {merchant: int64, at: timestamp, city: string, rating: int64}
batch: {kind: parquet, path: "data/openings*.parquet"}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
aggregations:
  - {column: merchant, functions: [last], windows: [6h]}
  - {column: amount, functions: [sum], windows: [1h]}
---
kind: FeatureSet
name: merchants
entities: [merchant]
source: openings
ttl: 6h
history: all
aggregations:
  - {column: rating, functions: [sum, max], windows: [1h]}
---
kind: FeatureSet
name: cities
entities: [city]
source: openings
closed: left
history: all
aggregations:
  - {column: rating, functions: [sum], windows: [6h]}
---
kind: FeatureSet
name: labels
entities: [customer]
source: payments
online: false
steps:
  - select: [amount]
aggregations:
  - {functions: [count], windows: [1h]}
---
kind: FeatureVector
name: chain
features:
  - spending.amount_sum_1h as spent
  - {set: merchants, features: ["*"], keys: {merchant: spending.merchant_last_6h}, as: m_*}
  - {set: cities, features: [rating_sum_6h], keys: {city: m_city}, as: c_*}
label: {feature: labels.count_1h as count_ahead, offset: 1h}
inputs: {bonus: int64}
derive:
  best: "merchants.rating_max_1h + bonus"
  share: "spent + cities.rating_sum_6h"
impute: {m_city: none, best: -1}
---
kind: FeatureVector
name: scored
base: spending
features:
  - spending.*
  - {set: merchants, features: [city, rating_sum_1h], keys: {merchant: spending.merchant}, as: own_*}
  - {set: merchants, features: [city, rating], keys: {merchant: merchant_last_6h}, as: last_*}
  - {set: cities, features: ["*"], keys: {city: last_city}, as: c_*}
label: {feature: labels.amount as amount_ahead, offset: 30m, pending: keep}
"""

PROJECT = compiled(SPECS)
SETS = PROJECT.sets
CHAIN, SCORED = PROJECT.vectors["chain"], PROJECT.vectors["scored"]


def payments(*, whole: bool = False, **options: Any) -> SearchStrategy[list[Row]]:
    """Draw payments; unless `whole`, some merchants are numbers that are no key."""
    known: list[float | None] = [1.0, 1.0, 2.0, 2.0, 2.0, None, math.nan]
    given: dict[str, SearchStrategy[Any]] = {
        "merchant": st.sampled_from(known if whole else [*known, 2.5, math.inf, 1e300]),
        "amount": st.one_of(st.none(), st.integers(-9, 9)),
    }
    return source_log(SETS["spending"], given=given, keys=2, **options)


def openings(**options: Any) -> SearchStrategy[list[Row]]:
    """Draw rows of merchants."""
    given: dict[str, SearchStrategy[Any]] = {
        "merchant": st.sampled_from([1, 1, 2, 2, 3, None]),
        "city": st.sampled_from(["x", "x", "y", "y", None]),
        "rating": st.one_of(st.none(), st.integers(0, 9)),
    }
    return source_log(SETS["merchants"], given=given, **options)


def frame(source: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows of a source as a frame."""
    columns = []
    for item in PROJECT.sources[source].schema:
        kind = item.type.polars()
        physical = pl.Int64() if isinstance(kind, pl.Datetime) else kind
        columns.append(pl.Series(item.name, [row[item.name] for row in rows], physical).cast(kind))
    return pl.DataFrame(columns)


def plans_of(source: str) -> list[SetPlan]:
    """Return the sets of a source."""
    return [plan for plan in SETS.values() if plan.source.name == source]


class Judge:
    """Expected vectors over logs of payments and openings."""

    def __init__(self, paid: Sequence[Row], opened: Sequence[Row]) -> None:
        self._rows = {
            name: [_fact(plan, row) for row in (paid if plan.source.name == "payments" else opened)]
            for name, plan in SETS.items()
        }
        self._newest_payment = max(
            (row["known_at"] for row in paid if row["customer"] is not None), default=None
        )

    def set(self, name: str, key: Any, t: int, **options: Any) -> dict[str, oracle.Cell]:
        """Return every feature of a set; a key of None has no rows."""
        rows = [row for row in self._rows[name] if row["__key"] is not None]
        return oracle.expected_cells(SETS[name], rows, key, t, **options)

    def chain(self, customer: Any, bonus: int | None, t: int, **options: Any) -> dict[str, oracle.Cell]:
        """Return the vector `chain`."""
        spent = self.set("spending", customer, t, **options)
        merchant = self.set("merchants", _whole(spent["merchant_last_6h"].value), t, **options)
        city = self.set("cities", merchant["city"].value, t, **options)
        cells = {"spent": spent["amount_sum_1h"]} | {f"m_{name}": c for name, c in merchant.items()}
        cells["c_rating_sum_6h"] = city["rating_sum_6h"]
        best = merchant["rating_max_1h"].value
        cells["best"] = oracle.Cell(-1 if best is None or bonus is None else best + bonus)
        cells["share"] = oracle.Cell(cells["spent"].value + city["rating_sum_6h"].value)
        if cells["m_city"].value is None:
            cells["m_city"] = oracle.Cell("none")
        return cells

    def scored(self, row: Row, **options: Any) -> dict[str, oracle.Cell]:
        """Return the vector `scored` of a payment."""
        t = row["at"]
        cells = self.set("spending", row["customer"], t, base=_fact(SETS["spending"], row), **options)
        own = self.set("merchants", _whole(row["merchant"]), t, **options)
        last = self.set("merchants", _whole(cells["merchant_last_6h"].value), t, **options)
        city = self.set("cities", last["city"].value, t, **options)
        cells |= {f"own_{name}": own[name] for name in ("city", "rating_sum_1h")}
        cells |= {f"last_{name}": last[name] for name in ("city", "rating")}
        return cells | {f"c_{name}": c for name, c in city.items()}

    def found(self, customer: Any, t: int, **options: Any) -> bool:
        """Return whether every look-up of `chain` finds a row of its entity."""
        spent = self.set("spending", customer, t, **options)
        merchant = self.set("merchants", _whole(spent["merchant_last_6h"].value), t, **options)
        keys = {
            "spending": customer,
            "merchants": _whole(spent["merchant_last_6h"].value),
            "cities": merchant["city"].value,
        }
        return (
            all(
                oracle.newest(
                    self._rows[name],
                    key,
                    t,
                    ttl=SETS[name].ttl,
                    closed="left" if SETS[name].left_closed else "right",
                    **options,
                )
                is not None
                for name, key in keys.items()
                if key is not None
            )
            and None not in keys.values()
        )

    def fetched(self, customer: Any, t: int, **options: Any) -> Row:
        """Return what conditions call `set.feature`: what the look-ups of `chain` find."""
        spent = self.set("spending", customer, t, **options)
        merchant = self.set("merchants", _whole(spent["merchant_last_6h"].value), t, **options)
        parts = {
            "spending": spent,
            "merchants": merchant,
            "cities": self.set("cities", merchant["city"].value, t, **options),
            "labels": self.set("labels", customer, t, **options),
        }
        return {f"{name}.{n}": cell.value for name, cells in parts.items() for n, cell in cells.items()}

    def is_pending(self, t: int) -> bool:
        """Return whether the labels of `chain` at `t` lie ahead of the data."""
        return self._newest_payment is None or t + HOUR > self._newest_payment

    def count_ahead(self, customer: Any, t: int) -> int | None:
        """Return the label of `chain`: payments of the hour from `t` on, null where the hour is not over."""
        return None if self.is_pending(t) else self.set("labels", customer, t + HOUR)["count_1h"].value

    def amount_ahead(self, row: Row) -> Any:
        """Return the label of `scored`: the amount of the newest payment half an hour on."""
        return self.set("labels", row["customer"], row["at"] + HOUR // 2)["amount"].value


def _whole(value: float | None) -> int | None:
    """Return a number as an int64 key; None where it is none."""
    if value is None or not math.isfinite(value) or value != math.floor(value) or abs(value) >= 2.0**63:
        return None
    return int(value)


def _fact(plan: SetPlan, row: Mapping[str, Any]) -> Row:
    """Return a row as the oracle reads it."""
    made = {
        **row,
        "__key": row[plan.keys[0].column],
        "__event_time": row["at"],
        "__ingest_time": row.get("known_at", row["at"]),
        "__row_hash": row_hash(row, plan.source.schema),
    }
    return made | ({"__event_id": row["id"]} if "id" in row else {})


def condition(text: str) -> Condition:
    """Return a condition on rows of `chain`."""
    return compile_condition(text, CHAIN, SETS)
