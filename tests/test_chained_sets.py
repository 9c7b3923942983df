"""A chained set reads its parent's rows, never its aggregates (DESIGN 3.16): three levels, by the oracle.

`paid` is of customers, kept offline only; `shops` reads it by shop; `big` reads that, by country. Each has a
ttl, an edge and aggregations of its own; filters and columns come down from above.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import oracle
import polars as pl
import pytest
from parity import check_cells, compiled

from featurestore import FeatureStore
from featurestore.errors import SpecError
from featurestore.rows.identity import row_hash
from featurestore.specs import Entity, FeatureSet, Source

SPECS = """
kind: Entity
name: customer
type: string
---
kind: Entity
name: shop
type: int64
---
kind: Entity
name: country
type: string
---
kind: Source
name: payments
event_time: at
ingest_time: seen
event_id: id
schema:
  id: string
  customer: string
  shop: int64
  country: string
  at: timestamp
  seen: timestamp
  amount: float64
  test: bool
stream: {topic: payments}
---
kind: FeatureSet
name: paid
entities: [customer]
source: payments
online: false
closed: left
ttl: 10m
steps:
  - filter: "not coalesce(test, false)"
  - derive: {fee: "amount * 0.125"}
  - drop: [test, country]
aggregations:
  - {column: amount, functions: [sum], windows: [1h]}
---
kind: FeatureSet
name: shops
entities: [shop]
source: paid
history: all
ttl: 2h
steps:
  - derive: {net: "amount - fee"}
  - select: [net, customer]
aggregations:
  - {column: net, functions: [sum, max, count], windows: [1h, 3h]}
  - {column: fee, where: "amount > 50", functions: [last], windows: [3h]}
  - {column: test, functions: [count], windows: [3h]}
---
kind: FeatureSet
name: big
entities: [country]
source: shops
closed: left
history: all
steps:
  - filter: "net > 50"
  - derive: {twice: "net * 2"}
aggregations:
  - {functions: [count], windows: [3h]}
  - {column: shop, functions: [count_distinct], windows: [3h]}
---
kind: FeatureVector
name: looked-up
features: [shops.*, "big.* as big_*"]
---
kind: FeatureVector
name: scored
base: shops
features: [shops.*, big.count_3h]
label: paid.fee
"""
CONFIG = "project: chains\nonline: {kind: sqlite}\nstream: {kind: log}\n"
PROJECT = compiled(SPECS)
SHOPS, BIG = PROJECT.sets["shops"], PROJECT.sets["big"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 3, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
Row = Mapping[str, Any]


def us(moment: datetime) -> int:
    """Return microseconds."""
    return (moment - EPOCH) // MICROSECOND


def make_rows(seed: int = 7, count: int = 60) -> list[dict[str, Any]]:
    """Return payments with ties, late ones, nulls, test payments, and the same event said twice."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        at = START + timedelta(minutes=10 * rng.randrange(30), microseconds=rng.choice([0, 0, 1]))
        row = {
            "id": f"p{number}",
            "customer": rng.choice(["a", "b", None]),
            "shop": rng.choice([1, 2, None]),
            "country": rng.choice(["nl", "be"]),
            "at": at,
            "amount": rng.choice([None, 8.0, 64.0, 100.5, 400.0]),
            "test": rng.choice([None, False, False, True]),
        }
        if rows and rng.random() < 0.15:
            row |= {name: rows[-1][name] for name in ("id", "shop", "country", "at")}
        row["seen"] = row["at"] + timedelta(minutes=rng.choice([0, 0, 30]))
        rows.append(row)
    return rows


def after(row: Row, name: str) -> dict[str, Any] | None:
    """Return a payment after the steps of a set and of those above it, by hand; None where filtered."""
    if row["test"]:
        return None
    amount = row["amount"]
    made = {**row, "fee": None if amount is None else amount * 0.125}
    made["net"] = None if amount is None else amount - made["fee"]
    if name == "big":
        if made["net"] is None or not made["net"] > 50:
            return None
        made["twice"] = made["net"] * 2
    return made


def facts(name: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a set's rows as the oracle reads them."""
    key = {"shops": "shop", "big": "country", "paid": "customer"}[name]
    made = []
    for row in rows:
        found = after(row, name)
        if found is None or found[key] is None:
            continue
        raw = {**row, "at": us(row["at"]), "seen": us(row["seen"])}
        made.append(
            {
                **found,
                "__key": found[key],
                "__event_time": raw["at"],
                "__ingest_time": raw["seen"],
                "__row_hash": row_hash(raw, PROJECT.sources["payments"].schema),
                "__event_id": row["id"],
            }
        )
    return made


def predicate(_: Any) -> Any:
    """Return the twin of the one condition there is."""
    return lambda row: None if row["amount"] is None else row["amount"] > 50


def expected(rows: Sequence[Row], shop: int | None, country: str, t: int) -> dict[str, oracle.Cell]:
    """Return the vector `looked-up`."""
    big = oracle.expected_cells(BIG, facts("big", rows), country, t, predicate=predicate)
    shops = oracle.expected_cells(SHOPS, facts("shops", rows), shop, t, predicate=predicate)
    return shops | {f"big_{name}": cell for name, cell in big.items()}


ROWS = make_rows()


@pytest.fixture(scope="module", params=["batch", "stream", "both"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A store with the payments by batch, by the stream, or by both with some that came twice."""
    root = tmp_path_factory.mktemp("chains")
    (root / "featurestore.yaml").write_text(CONFIG)
    (root / "specs.yaml").write_text(SPECS)
    batch = {"batch": ROWS, "stream": [], "both": ROWS[:40]}[request.param]
    stream = {"batch": [], "stream": ROWS, "both": ROWS[30:]}[request.param]
    with FeatureStore(root) as made:
        made.apply()
        if batch:
            made.ingest("payments", pl.DataFrame(batch, schema_overrides={"shop": pl.Int64}))
        if stream:
            said = [row | {"at": row["at"].isoformat(), "seen": row["seen"].isoformat()} for row in stream]
            assert not made.push("payments", said).refused
            made.drain()
        yield made


INSTANTS = sorted({row["at"] + timedelta(microseconds=n) for row in ROWS for n in (-1, 0, 1)})[::4]


def test_online_and_training_are_the_oracles_over_the_parents_rows(store: FeatureStore) -> None:
    reader = store.reader("looked-up")
    names = [f.name for f in reader.plan.outputs]
    questions = [(shop, country, t) for shop in (1, 2, 9) for country in ("nl", "be") for t in INSTANTS]
    asked = [{"shop": shop, "country": country} for shop, country, _ in questions]
    online = reader.read(asked, as_of=[us(t) for _, _, t in questions])
    frame = pl.DataFrame(asked).with_columns(pl.Series("event_timestamp", [t for _, _, t in questions]))
    trained = store.get_offline_features("looked-up", frame).to_polars()
    for (shop, country, t), got, row in zip(
        questions, online.rows, oracle.rows_of(trained.select(names)), strict=True
    ):
        cells = expected(ROWS, shop, country, us(t))
        check_cells(cells, dict(zip(names, got, strict=True)), (shop, country, t))
        check_cells(cells, row, (shop, country, t))


def test_a_chained_base_scores_raw_rows_through_all_steps(store: FeatureStore) -> None:
    """The raw row is the source's; what a filter above leaves out is INVALID online and null in training."""
    frame = pl.DataFrame(ROWS, schema_overrides={"shop": pl.Int64})
    training = store.get_offline_features("scored", frame)
    trained = oracle.rows_of(training.to_polars())
    names = list(training.features)
    online = store.get_online_features("scored", ROWS)
    made = facts("shops", ROWS)
    labels = facts("paid", ROWS)
    for raw, got, row, error in zip(ROWS, online.rows, trained, online.errors, strict=True):
        if raw["test"]:
            assert error is not None
            assert "a filter of 'shops' leaves the row out" in error
            assert [row[name] for name in names if name not in raw] == [None] * (len(names) - 1)
            continue
        assert error is None, error
        [base] = facts("shops", [{**raw, "shop": 0 if raw["shop"] is None else raw["shop"]}])
        t, shop = us(raw["at"]), raw["shop"]
        cells = oracle.expected_cells(SHOPS, made, shop, t, base=base, predicate=predicate)
        cells = (
            cells if shop is not None else {**oracle.expected_cells(SHOPS, [], None, t, predicate=predicate)}
        )
        cells |= {name: oracle.Cell(base[name]) for name in ("net", "customer")}
        cells["count_3h"] = oracle.expected_cells(
            BIG, facts("big", ROWS), raw["country"], t, predicate=predicate
        )["count_3h"]
        check_cells(cells, dict(zip(names, got, strict=True)), raw)
        check_cells(cells, row, raw)
        same = [
            r for r in labels if (r["id"], r["at"], r["customer"]) == (raw["id"], raw["at"], raw["customer"])
        ]
        assert row["fee"] == (min(same, key=oracle.order_key)["fee"] if same else None)


def test_verify_finds_no_difference(store: FeatureStore) -> None:
    for vector in ("looked-up", "scored"):
        found = store.verify(vector, sample=80)
        assert found.is_equal, found.differences
        assert found.compared or found.skipped == ["scored: no rows yet"]  # came as a frame: no landing


def test_a_parent_that_is_not_online_keeps_no_child_from_it(store: FeatureStore) -> None:
    with pytest.raises(SpecError, match=r"online"):
        store.get_online_features(["paid.fee"], [{"customer": "a"}])
    assert store.get_online_features(["shops.net_count_3h"], [{"shop": 1}]).status == [["PRESENT"]]


def test_a_child_sees_what_its_parent_shows_and_may_use_what_it_hides() -> None:
    assert [f.name for f in PROJECT.sets["paid"].plain] == ["shop", "amount", "fee"]
    assert [f.name for f in SHOPS.plain] == ["net", "customer"]
    assert [f.name for f in BIG.plain] == ["net", "customer", "twice"]
    assert {"test", "country", "amount", "fee"} <= {f.name for f in SHOPS.columns}


def test_ttl_edges_and_aggregations_are_each_sets_own() -> None:
    paid = PROJECT.sets["paid"]
    assert [p.ttl for p in (paid, SHOPS, BIG)] == [600 * 10**6, 7200 * 10**6, None]
    assert [p.left_closed for p in (paid, SHOPS, BIG)] == [True, False, True]
    assert [p.online for p in (paid, SHOPS, BIG)] == [False, True, True]
    assert not {"amount_sum_1h"} & {f.name for f in SHOPS.features}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("amount * 0.125", "amount * 0.25", {"paid", "shops", "big"}),
        ("net > 50", "net > 60", {"big"}),
        ("closed: left\nttl: 10m", "closed: right\nttl: 5m", set()),
        ("{column: amount, functions: [sum], windows: [1h]}", "{functions: [count], windows: [2h]}", set()),
        ("[net, customer]", "[customer, net]", {"shops", "big"}),
    ],
)
def test_a_change_of_the_parents_rows_is_a_new_version_of_its_children(
    old: str, new: str, changed: set[str]
) -> None:
    """What is the parent's own, its windows or its ttl, changes no row of a child."""
    assert old in SPECS
    other = compiled(SPECS.replace(old, new)).sets
    assert {n for n in other if other[n].rows_fingerprint != PROJECT.sets[n].rows_fingerprint} == changed


def test_apply_makes_new_versions_down_the_chain_and_their_rows_come_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text(CONFIG)
    specs = SPECS.replace("stream: {topic: payments}", 'batch: {kind: parquet, path: "*.parquet"}')
    (tmp_path / "specs.yaml").write_text(specs)
    pl.DataFrame(ROWS, schema_overrides={"shop": pl.Int64}).write_parquet(tmp_path / "rows.parquet")
    noon = START + timedelta(hours=5)
    asked = pl.DataFrame({"shop": [1], "event_timestamp": [noon]})
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.ingest("payments")
        before = store.get_offline_features(["shops.net"], asked).to_polars()["net"][0]
    (tmp_path / "specs.yaml").write_text(specs.replace("amount * 0.125", "amount * 0.5"))
    with FeatureStore(tmp_path) as store:
        changes = str(store.plan())
        assert all(name in changes for name in ("paid", "shops", "big"))
        store.apply()
        store.ingest("payments")
        now = store.get_offline_features(["shops.net"], asked).to_polars()["net"][0]
    assert before is not None
    assert now == before / 0.875 * 0.5


def test_a_mistake_in_a_parents_step_is_said_once_where_it_stands() -> None:
    with pytest.raises(SpecError) as error:
        compiled(SPECS.replace("amount * 0.125", "amont * 0.125"))
    assert str(error.value).count("There is no column 'amont'") == 1
    assert "Did you mean 'amount'" in str(error.value)


def test_a_parent_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no source or feature set 'paidd'. Did you mean 'paid'"):
        compiled(SPECS.replace("source: paid\n", "source: paidd\n"))


def test_sets_that_read_one_another_are_refused() -> None:
    with pytest.raises(SpecError, match=r"read one another: paid → big → shops → paid"):
        compiled(SPECS.replace("source: payments\nonline", "source: big\nonline"))


def test_a_child_may_clash_with_no_column_of_its_parent() -> None:
    with pytest.raises(SpecError, match=r"'fee' cannot become 'net'|another column's name"):
        compiled(SPECS.replace("  - select: [net, customer]", "  - rename: {fee: net}"))


def test_in_python_the_parent_may_be_named_by_the_object() -> None:
    source = Source(name="s", event_time="at", schema={"at": "timestamp", "a": "string"})
    parent = FeatureSet(name="parent", entities=[Entity(name="a")], source=source)
    child = FeatureSet(name="child", entities=["a"], source=parent)
    assert child.source == "parent"
    assert child == FeatureSet(name="child", entities=["a"], source="parent")
