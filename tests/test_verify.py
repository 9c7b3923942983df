"""Verify: finds what differs, says where, and finds nothing where nothing does."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import polars as pl
from payments_project import START, make_project, open_project, payment, payments

from featurestore import FeatureStore
from featurestore.contracts import EntityWrite
from featurestore.keys import encode_key, shard_of
from featurestore.types import INT64

SCORED = """
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
event_id: id
schema: {id: string, customer: string, at: timestamp, amount: float64, n: int64}
batch: {kind: csv, path: "*.csv"}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
history: all
aggregations: [{column: amount, functions: [sum], windows: [1d]}]
---
kind: FeatureVector
name: scored
base: spending
features: [spending.*]
"""


def test_equal_stores_are_equal_over_thousands_of_values(tmp_path):
    with open_project(tmp_path, a=payments(500)) as store:
        store.ingest("spend")
        found = store.verify(sample=300)
        assert found.is_equal
        assert found.compared > 3000
        assert not found.skipped
        assert str(found) == f"parity: {found.compared:,} values compared, 0 differ"


def test_an_entity_that_lost_its_state_is_found_with_the_rows_behind_it(tmp_path):
    with open_project(tmp_path) as store:
        now = pl.DataFrame([payment(i, i % 3) for i in range(9)]).with_columns(
            (pl.lit(0).cast(pl.Duration("us")) + pl.lit(_now())).alias("at")
        )
        store.ingest("spend", now.with_columns(pl.col("at").alias("seen")))
        assert store.verify("spend", sample=100).is_equal
        plan = store.catalog.feature_set("spend")
        generation = store.catalog.serving(plan)
        key = encode_key([1], [INT64])
        [state] = store.environment.online.shards(generation, [shard_of(key)])
        lost = [EntityWrite(key, {b"s": None}, None)]
        write = (shard_of(key), state.revision, b"another", state.positions, lost)
        assert store.environment.online.write(generation, [write]) == [True]
        found = store.verify("spend", sample=100)
        assert found.differ > 0
        assert {d.row["customer"] for d in found.differences} == {1}
        counts = [d for d in found.differences if d.feature == "amount_count_1h"]
        assert (counts[0].offline, counts[0].online) == (3, 0)
        assert len(counts[0].rows) == 3


def test_a_window_edge_that_is_off_by_a_microsecond_is_found(tmp_path, monkeypatch):
    with open_project(tmp_path, a=payments(500)) as store:
        store.ingest("spend")
        from featurestore.online.view import EntityView

        honest = EntityView.segments
        monkeypatch.setattr(EntityView, "segments", lambda self, low, high: honest(self, low - 1, high))
        assert not store.verify("spend", sample=300).is_equal


WIDE = """
kind: Entity
name: customer
---
kind: Source
name: sales
event_time: at
schema: {customer: string, at: timestamp, price: "decimal(38,6)", number: int64}
---
kind: FeatureSet
name: spend
entities: [customer]
source: sales
history: all
aggregations:
  - {column: price, functions: [avg, decay_sum, decay_avg], windows: [30d], half_life: 1h}
  - {column: number, functions: [avg, decay_sum, decay_avg], windows: [30d], half_life: 1h}
---
kind: FeatureVector
name: risk
features: [spend.*]
"""


def test_sums_that_their_columns_type_cannot_hold_are_compared_too(tmp_path):
    # past the 512 rows of one leaf, and so the last bits of what decays follow from the order of merging
    size = 1500
    prices = [Decimal("99999999999999999999999999999999.999999"), Decimal("-0.000001")]
    rows = pl.DataFrame(
        {
            "customer": ["C1"] * size,
            "at": [START + timedelta(seconds=7 * i * i % 90_000) for i in range(size)],
            "price": [prices[i % 3 > 0] for i in range(size)],
            "number": [(2**63 - 1, -(2**63), 7)[i % 3] for i in range(size)],
        },
        schema_overrides={"price": pl.Decimal(38, 6)},
    )
    with FeatureStore(make_project(tmp_path, WIDE)) as store:
        store.apply()
        store.ingest("spend", rows)
        found = store.verify("risk", sample=200)
        assert found.is_equal, str(found)
        assert found.largest_deviation > 0.0, "or nothing was to be tolerated"


def test_base_rows_of_a_csv_file_which_holds_text_alone_are_asked_for_typed(tmp_path):
    (tmp_path / "featurestore.yaml").write_text("project: shop\n")
    (tmp_path / "specs.yaml").write_text(SCORED)
    lines = ["id,customer,at,amount,n"]
    lines += [f"{i},{i % 2},2026-03-01T00:00:0{i}Z,{i}.5,{i}" for i in range(8)]
    (tmp_path / "orders.csv").write_text("\n".join(lines))
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.ingest("orders")
        found = store.verify("scored", sample=100)
        assert found.is_equal
        assert found.compared > 0


def _now():
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) - timedelta(minutes=5)
