"""Versions and generations: what serves is never written over, and switches at once."""

from __future__ import annotations

import polars as pl
import pytest
from payments_project import SPECS, START, open_project, payment, payments

from featurestore import FeatureStore, OperatorError
from featurestore.changes import CHANGED, CREATED, REMOVED, UNCHANGED, WAITING
from featurestore.online.writer import OnlineWriter

AT = START.replace(hour=23)


def edit(folder, old: str, new: str) -> None:
    """Change the project's specs."""
    path = folder / "specs.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def actions(changes) -> dict[str, str]:
    return {item.name: item.action for item in changes}


def test_plan_says_what_apply_does_and_then_nothing(tmp_path):
    with open_project(tmp_path) as store:
        assert set(actions(store.plan()).values()) == {UNCHANGED}
        assert store.plan().is_empty
        edit(tmp_path, "windows: [1h, 1d]", "windows: [1h, 2d]")
        planned = store.plan()
        assert actions(planned) == {
            "customer": UNCHANGED,
            "payments": UNCHANGED,
            "spend": CHANGED,
            "risk": CHANGED,
        }
        store.apply(planned)
        assert store.plan().is_empty


def test_a_stale_plan_is_refused(tmp_path):
    with open_project(tmp_path) as store:
        planned = store.plan()
        edit(tmp_path, "windows: [1h, 1d]", "windows: [1h, 2d]")
        store.apply()
        with pytest.raises(OperatorError, match="stale"):
            store.apply(planned)


def test_what_is_no_longer_declared_is_removed_and_its_versions_stay(tmp_path):
    with open_project(tmp_path) as store:
        fingerprint = store.vector("risk").plan.fingerprint
        edit(tmp_path, "---\nkind: FeatureVector\nname: risk\nfeatures: [spend.*]\n", "")
        assert actions(store.apply())["risk"] == REMOVED
        assert store.vector(f"risk@{fingerprint}").features


def test_a_new_window_keeps_the_table_and_fills_a_new_generation(tmp_path):
    with open_project(tmp_path, a=payments(200)) as store:
        store.ingest("spend")
        store.tag("FeatureVector", "risk", "prod")
        old = store.vector("risk@prod")
        before = old.get_online([{"customer": 1}], as_of=AT).to_dicts()
        table = store.environment.offline.tables()
        edit(tmp_path, "windows: [1h, 1d]", "windows: [1h, 3h, 1d]")
        [change] = [item for item in store.apply() if item.name == "spend"]
        assert any("kept as it is" in effect for effect in change.effects)
        with pytest.raises(OperatorError, match="featurestore materialize spend"):
            store.vector("risk").get_online([{"customer": 1}], as_of=AT)
        assert old.get_online([{"customer": 1}], as_of=AT).to_dicts() == before
        store.materialize("spend")
        after = store.vector("risk").get_online([{"customer": 1}], as_of=AT).to_dicts()[0]
        assert after["amount_count_3h"] == 4
        assert {k: v for k, v in after.items() if k in before[0]} == before[0]
        assert store.environment.offline.tables() == table
        assert store.verify(sample=100).is_equal


def test_a_version_that_nothing_keeps_current_is_refused(tmp_path):
    with open_project(tmp_path, a=payments(50)) as store:
        store.ingest("spend")
        old = store.vector("risk").name
        edit(tmp_path, "windows: [1h, 1d]", "windows: [1h, 3h, 1d]")
        store.apply()
        store.materialize("spend")
        with pytest.raises(OperatorError, match="no longer kept current"):
            store.vector(old).get_online([{"customer": 1}], as_of=AT)


def test_a_tag_on_a_version_that_was_not_kept_current_serves_once_it_is_filled(tmp_path):
    with open_project(tmp_path, a=payments(50)) as store:
        store.ingest("spend")
        old = store.vector("risk").name
        edit(tmp_path, "windows: [1h, 1d]", "windows: [1h, 3h, 1d]")
        store.apply()
        store.ingest("spend", pl.DataFrame([payment(900, 1, 1379.0, amount=500.0)]))
        store.tag("FeatureVector", old, "prod")
        with pytest.raises(OperatorError, match="no online values"):
            store.vector("risk@prod").get_online([{"customer": 1}], as_of=AT)
        store.materialize("spend")
        found = store.vector("risk@prod").get_online([{"customer": 1}], as_of=AT)
        assert found.to_dicts()[0]["amount_max_1d"] == 500.0


def test_a_column_added_to_a_source_leaves_its_stream_running(tmp_path):
    with open_project(tmp_path) as store:
        store.push("payments", [payment(1)])
        store.drain()
        edit(tmp_path, "shop: string}", "shop: string, note: string}")
        store.apply()
        store.push("payments", [payment(2, 1, 1.0) | {"note": "x"}])
        store.drain()
        store.materialize("spend")
        found = store.vector("risk").get_online([{"customer": 1}], as_of=AT)
        assert found.to_dicts()[0]["amount_count_1d"] == 2
        assert store.verify(sample=50).is_equal


def test_changed_steps_serve_nothing_until_the_new_table_is_filled(tmp_path):
    with open_project(tmp_path, a=payments(50)) as store:
        store.ingest("spend")
        before = store.vector("risk").get_online([{"customer": 1}], as_of=AT).to_dicts()[0]
        edit(tmp_path, "amount > 50", "amount > 20")
        store.apply()
        with pytest.raises(OperatorError, match="no online values"):
            store.vector("risk").get_online([{"customer": 1}], as_of=AT)
        store.materialize("spend")
        after = store.vector("risk").get_online([{"customer": 1}], as_of=AT).to_dicts()[0]
        assert after == before | {"large": True}


def test_changed_steps_make_a_new_table_that_ingest_fills_anew(tmp_path):
    with open_project(tmp_path, a=payments(50)) as store:
        store.ingest("spend")
        edit(tmp_path, "amount > 50", "amount > 20")
        store.apply()
        [report] = store.ingest("spend")
        assert report.rows_written == 50
        assert store.verify(sample=100).is_equal


def test_materialize_brings_a_lost_online_store_back(tmp_path):
    with open_project(tmp_path, a=payments(100)) as store:
        store.ingest("spend")
        before = store.vector("risk").get_online([{"customer": 2}], as_of=AT).rows
        (tmp_path / ".featurestore" / "online.db").unlink()
    with FeatureStore(tmp_path) as store:
        with pytest.raises(OperatorError, match="it lost its data"):
            store.vector("risk").get_online([{"customer": 2}], as_of=AT)
        store.ingest("spend")
        assert store.vector("risk").get_online([{"customer": 2}], as_of=AT).rows == before
        store.materialize("spend")
        assert store.vector("risk").get_online([{"customer": 2}], as_of=AT).rows == before


def test_materialize_brings_what_the_stream_has_applied_and_the_offline_store_has_not(tmp_path):
    with open_project(tmp_path, a=payments(20)) as store:
        store.ingest("spend")
        store.push("payments", [payment(500, 1, 1000.0, amount=7.0)], wait=10)
        plan = store.catalog.feature_set("spend")
        serving = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
        reached = {name: end for p in serving.positions().values() for name, end in p.items()}
        store.materialize("spend")
        made = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
        assert {name: end for p in made.positions().values() for name, end in p.items()} == reached
        found = store.vector("risk").get_online([{"customer": 1}], as_of=AT)
        assert found.to_dicts()[0]["amount_max_1d"] == 15.1


def test_a_vector_that_awaits_a_fit_waits_and_nothing_else_does(tmp_path):
    folder = tmp_path
    with open_project(folder, a=payments(90)) as store:
        store.ingest("spend")
        (folder / "specs.yaml").write_text(
            SPECS + "base: spend\nimpute: {amount_std_1h: $mean, amount_max_1h: 0}\n"
        )
        assert actions(store.apply())["risk"] == WAITING
        values = store.fit("risk")
        assert actions(store.apply())["risk"] == CHANGED
        plan = store.vector("risk").plan
        assert dict(plan.impute)["amount_std_1h"] == values["amount_std_1h"]["mean"]
        made = store.vector("risk").get_offline().to_polars()
        assert made["amount_std_1h"].null_count() == 0


def test_a_created_project_says_created(tmp_path):
    from payments_project import make_project

    make_project(tmp_path)
    with FeatureStore(tmp_path) as store:
        assert set(actions(store.plan()).values()) == {CREATED}
