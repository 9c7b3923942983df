"""A vector with a base over a small log, by hand: the base's own rows, rows of the caller's, and requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from parity import write_project

from featurestore import FeatureStore

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: payments
event_time: at
ingest_time: known
event_id: id
schema: {id: string, customer: string, at: timestamp, known: timestamp, amount: float64, kind: string}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
steps: [{select: [amount]}]
aggregations:
  - {column: amount, functions: [sum], windows: [1h]}
  - {by: kind, values: [a, b], functions: [count], windows: [1h]}
  - {where: "amount > 5", name: big, functions: [count], windows: [1h]}
---
kind: FeatureSet
name: labels
entities: [customer]
source: payments
online: false
steps:
  - derive: {large: "amount > 5"}
  - select: [large]
---
kind: FeatureVector
name: scored
base: spending
features: [spending.*]
label: labels.large
---
kind: FeatureVector
name: later
features: [spending.amount]
label: {feature: labels.large, offset: 30m, pending: keep}
"""


def at(text: str) -> datetime:
    """Return an instant of the day."""
    return datetime.fromisoformat(f"2026-03-01T{text}:00+00:00").astimezone(UTC)


def payment(number: str, when: str, known: str, amount: float, kind: str | None) -> dict[str, Any]:
    """Return a payment of the one customer."""
    return {
        "id": number,
        "customer": "c",
        "at": at(when),
        "known": at(known),
        "amount": amount,
        "kind": kind,
    }


PAID = [
    payment("p1", "10:00", "10:00", 10.0, "a"),
    payment("p2", "10:30", "12:00", 3.0, "b"),  # known late, and then said otherwise
    payment("p2", "10:30", "12:30", 100.0, "b"),
    payment("p3", "10:30", "10:30", 8.0, "a"),
    payment("p1", "10:45", "10:45", 20.0, None),  # the id of another instant is another payment
    payment("p4", "10:50", "10:50", 2.0, "other"),
    payment("p4", "10:50", "13:00", 200.0, "other"),
]
NEW = payment("p9", "10:55", "10:55", 6.0, "b")


def frame(*payments: dict[str, Any]) -> pl.DataFrame:
    """Return payments as a frame."""
    instant = pl.Datetime("us", "UTC")
    return pl.DataFrame(payments, schema_overrides={"at": instant, "known": instant})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """The project, with all payments but the new one."""
    root = write_project(tmp_path_factory.mktemp("base"), SPECS, "project: base\n")
    with FeatureStore(root) as made:
        made.apply()
        made.ingest("payments", frame(*PAID))
        yield made


COLUMNS = ["amount", "amount_sum_1h", "a_count_1h", "b_count_1h", "big_count_1h"]


def test_the_bases_own_rows_are_one_per_event_each_with_its_own_label(store: FeatureStore) -> None:
    made = store.vector("scored").get_offline().to_polars().sort("event_timestamp", "id")
    assert made.select("id", *COLUMNS, "large").rows() == [
        ("p1", 10.0, 10.0, 1, 0, 1, True),
        ("p2", 3.0, 21.0, 2, 1, 2, False),
        ("p3", 8.0, 21.0, 2, 1, 2, True),  # the newest row of that instant is p2's
        ("p1", 20.0, 41.0, 2, 1, 3, True),
        ("p4", 2.0, 43.0, 2, 1, 3, False),
    ]


def test_as_known_they_see_what_was_known_and_themselves(store: FeatureStore) -> None:
    """p2 sees itself, though nobody knew it then; the others do not see it."""
    made = store.vector("scored").get_offline(as_known=True).to_polars().sort("event_timestamp", "id")
    assert made.select("id", *COLUMNS).rows() == [
        ("p1", 10.0, 10.0, 1, 0, 1),
        ("p2", 3.0, 21.0, 2, 1, 2),
        ("p3", 8.0, 18.0, 2, 0, 2),
        ("p1", 20.0, 38.0, 2, 0, 3),
        ("p4", 2.0, 40.0, 2, 0, 3),
    ]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (NEW, (6.0, 49.0, 2, 2, 4)),
        (PAID[5], (2.0, 43.0, 2, 1, 3)),
        (NEW | {"kind": None}, (6.0, 49.0, 2, 1, 4)),
        (NEW | {"amount": 5.0}, (5.0, 48.0, 2, 2, 3)),
        (NEW | {"customer": "nobody"}, (6.0, 6.0, 0, 1, 1)),
    ],
)
def test_a_row_of_the_callers_counts_itself_once(
    store: FeatureStore, asked: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    vector = store.vector("scored")
    assert vector.get_offline(frame(asked)).to_polars().select(COLUMNS).rows() == [expected]
    result = vector.get_online([asked])
    assert result.errors == [None]
    assert tuple(result.rows[0]) == expected


@pytest.mark.parametrize("as_known", [False, True])
def test_a_label_counts_what_became_known_after_its_instant(store: FeatureStore, as_known: bool) -> None:
    """At 10:35 the newest payment is p2's, which nobody knew before noon."""
    asked = pl.DataFrame({"customer": ["c"], "event_timestamp": [at("10:05")]})
    asked = asked.with_columns(pl.col("event_timestamp").dt.convert_time_zone("UTC"))
    made = store.vector("later").get_offline(asked, as_known=as_known).to_polars()
    assert made.select("amount", "large").rows() == [(10.0, False)]
