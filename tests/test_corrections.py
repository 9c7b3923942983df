"""A row that is corrected or taken back is so everywhere, offline and online, late and out of order too."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from payments_project import CONFIG, make_project, payment

from featurestore import FeatureStore
from featurestore.instants import from_datetime

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
on_duplicate: replace
deleted: "shop = 'void'"
schema: {id: string, customer: int64, at: timestamp, seen: timestamp, amount: float64, shop: string}
stream: {topic: payments}
---
kind: Source
name: accounts
event_time: at
ingest_time: seen
deleted: "shop = 'closed'"
schema: {customer: int64, at: timestamp, seen: timestamp, amount: float64, shop: string}
stream: {topic: accounts}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
history: all
steps:
  - filter: "amount > 0"
  - drop: [shop, id, at, seen]
aggregations:
  - {column: amount, functions: [sum, count, max], windows: [1h]}
---
kind: FeatureSet
name: limits
entities: [customer]
source: accounts
history: all
steps:
  - select: [amount]
aggregations:
  - {column: amount, functions: [sum, last], windows: [1d]}
  - {column: amount, name: before, functions: [count], windows: [1h], offset: 1h}
---
kind: FeatureVector
name: risk
features: [spend.*]
---
kind: FeatureVector
name: scored
base: spend
features: [spend.*]
---
kind: FeatureVector
name: credit
features: [limits.*]
"""


def a_store(folder: Path) -> FeatureStore:
    make_project(folder, SPECS, CONFIG)
    store = FeatureStore(folder)
    store.apply()
    return store


def account(minutes: float, amount: float, shop: str = "open") -> dict[str, Any]:
    row = payment(0, 1, minutes, amount=amount, shop=shop)
    del row["id"]
    return row


def ingest(store: FeatureStore, name: str, *rows: dict[str, Any]) -> None:
    """Ingest each row by itself: the later ones are late, or undo what is stored already."""
    for row in rows:
        store.ingest(name, pl.DataFrame([row], schema_overrides={"amount": pl.Float64}))


def both(store: FeatureStore, vector: str, at: datetime, *, as_known: bool = False) -> dict[str, Any]:
    """Return the vector of customer 1 at an instant, once it is the same offline and online."""
    asked = pl.DataFrame({"customer": [1], "event_timestamp": [at]})
    offline = store.get_offline_features(vector, asked, as_known=as_known).to_polars()
    [trained] = offline.drop("customer", "event_timestamp").to_dicts()
    if not as_known:
        online = store.get_online_features(vector, [{"customer": 1}], as_of=from_datetime(at))
        assert online.to_dicts() == [trained]
    return trained


def minute(number: float) -> datetime:
    return payment(0, 1, number)["at"]


def test_the_newest_copy_of_an_id_counts_and_a_deletion_takes_it_back(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        ingest(store, "spend", payment(1, minutes=0, amount=8.0), payment(2, minutes=10, amount=2.0))
        assert both(store, "risk", minute(20)) == {
            "amount": 2.0,
            "amount_sum_1h": 10.0,
            "amount_count_1h": 2,
            "amount_max_1h": 8.0,
        }
        ingest(store, "spend", payment(1, minutes=0, amount=5.0, seen=minute(30)))
        assert both(store, "risk", minute(20))["amount_sum_1h"] == 7.0
        # no filter of the steps holds the deletion back: its amount is 0
        ingest(store, "spend", payment(2, minutes=10, amount=0.0, shop="void", seen=minute(40)))
        assert both(store, "risk", minute(20)) == {
            "amount": 5.0,
            "amount_sum_1h": 5.0,
            "amount_count_1h": 1,
            "amount_max_1h": 5.0,
        }
        known = both(store, "risk", minute(20), as_known=True)
        assert (known["amount"], known["amount_sum_1h"]) == (2.0, 10.0), "nothing of it was known then"


def test_a_deletion_that_comes_before_its_row_takes_it_back_as_well(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        ingest(store, "spend", payment(1, minutes=0, amount=0.0, shop="void", seen=minute(5)))
        ingest(store, "spend", payment(1, minutes=0, amount=8.0, seen=minute(1)))
        assert both(store, "risk", minute(20))["amount_count_1h"] == 0
        ingest(store, "spend", payment(1, minutes=0, amount=9.0, seen=minute(6)))
        assert both(store, "risk", minute(20))["amount_sum_1h"] == 9.0, "what is newer brings the id back"


def test_a_retraction_of_another_instant_or_entity_is_another_event(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        ingest(
            store,
            "spend",
            payment(1, minutes=0, amount=8.0),
            payment(1, minutes=1, shop="void", seen=minute(9)),
            payment(1, 2, minutes=0, shop="void", seen=minute(9)),
        )
        assert both(store, "risk", minute(20))["amount_sum_1h"] == 8.0


def test_a_deleted_row_ends_its_entity_from_its_event_time_on(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        ingest(store, "limits", account(0, 10.0), account(30, 20.0), account(20, 0.0, "closed"))
        assert both(store, "credit", minute(10)) == {
            "amount": 10.0,
            "amount_sum_1d": 10.0,
            "amount_last_1d": 10.0,
            "before_count_1h": 0,
        }
        assert both(store, "credit", minute(25)) == {
            "amount": None,
            "amount_sum_1d": 0.0,
            "amount_last_1d": None,
            "before_count_1h": 0,
        }
        assert both(store, "credit", minute(30))["amount_sum_1d"] == 20.0
        # the hour before the last one held the first row, which has ended since
        assert both(store, "credit", minute(70))["before_count_1h"] == 0
        assert both(store, "credit", minute(90))["before_count_1h"] == 1
        ingest(store, "limits", account(95, 0.0, "closed"))
        assert both(store, "credit", minute(100))["before_count_1h"] == 0


def test_a_late_row_of_before_the_end_changes_nothing_after_it(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        ingest(store, "limits", account(20, 0.0, "closed"), account(0, 10.0), account(30, 20.0))
        assert both(store, "credit", minute(40))["amount_sum_1d"] == 20.0
        assert both(store, "credit", minute(10))["amount_sum_1d"] == 10.0


def test_a_deletion_is_no_base_row(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        void = payment(2, minutes=10, amount=2.0, shop="void", seen=minute(12))
        ingest(store, "spend", payment(1, minutes=0, amount=8.0), payment(2, minutes=10, amount=2.0), void)
        training = store.get_offline_features("scored").to_polars()
        assert training["id"].to_list() == ["p1"]
        served = store.get_online_features("scored", [void])
        assert served.status == [["INVALID"] * 4]
        assert "deletion" in (served.errors[0] or "")
        trained = store.get_offline_features("scored", pl.DataFrame([void])).to_polars()
        assert trained["amount_sum_1h"].to_list() == [None]


def test_statistics_and_verify_know_of_deletions(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        rows = [payment(i, i % 3, i, amount=float(i + 1)) for i in range(30)]
        gone = [row | {"shop": "void", "amount": 1e9, "seen": minute(60)} for row in rows[::4]]
        ingest(store, "spend", *rows[:3])
        store.ingest("spend", pl.DataFrame(rows[3:] + gone))
        store.ingest("limits", pl.DataFrame([account(0, 1.0), account(5, 2.0, "closed"), account(9, 3.0)]))
        assert store.show("spend")["statistics"]["amount"]["max"] == 30.0
        found = store.verify(sample=300)
        assert found.is_equal
        assert found.compared > 500
        store.compact()
        assert store.verify(sample=300).is_equal
