"""Ingest: everything once, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from payments_project import START, make_project, open_project, payment, payments

from featurestore import FeatureStore, OperatorError, RequestError, SpecError, tables
from featurestore.plans import EVENT_ID, SEQUENCE


def offline_rows(store: FeatureStore, name: str = "spend") -> pl.DataFrame:
    """Return all rows of a set's offline table."""
    table = store.environment.rows_table(store.catalog.feature_set(name))
    snapshot = table.snapshot()
    assert snapshot is not None
    return table.lazy(snapshot).collect()


def online(store: FeatureStore, customer: int, at: object = None) -> dict:
    """Return a customer's vector, by default after all payments."""
    instant = START.replace(month=6) if at is None else at
    return store.vector("risk").get_online([{"customer": customer}], as_of=instant).to_dicts()[0]


def test_the_same_input_again_changes_nothing(tmp_path):
    with open_project(tmp_path, history=payments(100)) as store:
        [first] = store.ingest("spend")
        before = online(store, 3, START.replace(day=2))
        [again] = store.ingest("spend")
        assert (first.rows_read, first.rows_written, first.rows_online) == (100, 100, 100)
        assert (again.known_inputs, again.rows_written, again.rows_online) == (1, 0, 0)
        assert offline_rows(store).height == 100
        assert online(store, 3, START.replace(day=2)) == before


def test_the_same_frame_again_is_a_no_op_and_another_frame_is_not(tmp_path):
    with open_project(tmp_path) as store:
        store.ingest("spend", payments(10))
        store.ingest("spend", payments(10))
        store.ingest("spend", pl.DataFrame([payment(99, 2, 5000)]))
        assert offline_rows(store).height == 11


def test_a_new_file_beside_a_known_one_brings_its_rows_alone(tmp_path):
    with open_project(tmp_path, a=payments(50)) as store:
        store.ingest("spend")
        payments(80)[50:].write_parquet(tmp_path / "data" / "b.parquet")
        [report] = store.ingest("spend")
        assert (report.inputs, report.known_inputs, report.rows_read) == (2, 1, 30)
        assert sorted(offline_rows(store)[SEQUENCE]) == list(range(80))


def test_a_file_that_changed_in_place_is_refused_unless_it_is_appended(tmp_path):
    with open_project(tmp_path, a=payments(10)) as store:
        store.ingest("spend")
        payments(12).write_parquet(tmp_path / "data" / "a.parquet")
        with pytest.raises(RequestError, match="ingested before with other contents"):
            store.ingest("spend")
        assert offline_rows(store).height == 10
        store.ingest("spend", mode="append")
        assert offline_rows(store)[EVENT_ID].n_unique() == 12
        assert online(store, 3, START.replace(day=2))["amount_count_1d"] == 2


def test_bad_rows_become_dead_letters_with_their_reason(tmp_path):
    rows = [payment(1), payment(2, None), payment(3, at=None), payment(4, amount=None)]
    rows.append(payment(5, seen=START.replace(year=2025)))
    with open_project(tmp_path, a=pl.DataFrame(rows, schema_overrides={"customer": pl.Int64})) as store:
        [report] = store.ingest("spend")
        assert report.counts == {"null_key": 1, "null_event_time": 1, "future": 1}
        assert report.rows_written == 2
        letters = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = letters.snapshot()
        assert snapshot is not None
        found = letters.lazy(snapshot).collect().sort("sequence")
        assert found["code"].to_list() == ["null_event_time", "future"]
        assert found["sequence"].to_list() == [2, 4]
        store.ingest("spend", mode="append")
        assert letters.lazy(letters.snapshot()).collect().height == 2  # type: ignore[arg-type]


def test_every_row_of_many_commits_arrives_once(tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore_engines.batch.ingest.COMMIT_ROWS", 40)
    monkeypatch.setattr("featurestore_engines.batch.ingest.READ_ROWS", 16)
    with open_project(tmp_path, a=payments(300)) as store:
        store.ingest("spend")
        rows = offline_rows(store)
        assert sorted(rows[SEQUENCE]) == list(range(300))
        assert rows[EVENT_ID].n_unique() == 300


def test_rows_that_are_refused_are_committed_in_parts_too(tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore_engines.batch.ingest.COMMIT_ROWS", 40)
    monkeypatch.setattr("featurestore_engines.batch.ingest.READ_ROWS", 16)
    refused = payments(300).with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias("at"))
    with open_project(tmp_path, a=refused) as store:
        [report] = store.ingest("spend")
        assert (report.rows_read, report.rows_written) == (300, 0)
        letters = store.environment.offline.table(tables.DEAD_LETTERS)
        assert letters.lazy(letters.snapshot()).collect().height == 300
        assert letters.snapshot().version >= 5


def test_inputs_share_a_commit_and_a_bad_one_takes_nothing_from_those_before_it(tmp_path):
    history = {"a": payments(30), "b": payments(70)[30:], "c": payments(70)[30:], "d": payments(90)[70:]}
    with open_project(tmp_path, **history) as store:
        (tmp_path / "data" / "e.parquet").write_bytes(b"damaged")
        with pytest.raises(OperatorError, match="is no Parquet file"):
            store.ingest("spend")
        (tmp_path / "data" / "e.parquet").unlink()
        pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "data" / "e.parquet")
        with pytest.raises(SpecError, match="is int64 in the input and string"):
            store.ingest("spend")
        table = store.environment.rows_table(store.catalog.feature_set("spend"))
        assert sorted(offline_rows(store)[SEQUENCE]) == list(range(90))  # c has the bytes of b
        assert len(table.files(table.snapshot())) == 1
        (tmp_path / "data" / "e.parquet").unlink()
        payments(0).write_parquet(tmp_path / "data" / "f.parquet")
        [report] = store.ingest("spend")
        assert (report.inputs, report.known_inputs, report.rows_read) == (5, 4, 0)
        [report] = store.ingest("spend")
        assert (report.inputs, report.known_inputs) == (5, 5)


KILLED = """
import sys
from featurestore import FeatureStore
import featurestore_engines.batch.ingest as ingest
ingest.COMMIT_ROWS, ingest.READ_ROWS = 200, 100
print("ready", flush=True)
FeatureStore(sys.argv[1]).ingest("spend")
print("done", flush=True)
"""


def test_an_ingest_that_was_killed_is_completed_by_the_next(tmp_path):
    open_project(tmp_path, a=payments(6000)).close()
    kills = 0
    for delay in (0.15, 0.35, 0.6, 0.9, 1.3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)  # let it get somewhere; the outcome holds wherever that is
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills
    with FeatureStore(tmp_path) as store:
        store.ingest("spend")
        rows = offline_rows(store)
        assert sorted(rows[SEQUENCE]) == list(range(6000))
        assert rows[EVENT_ID].n_unique() == 6000
        assert store.verify("spend", sample=200).is_equal
        counts = [online(store, c, START.replace(day=2))["amount_count_1d"] for c in range(7)]
        day = payments(6000).filter(pl.col("at") <= START.replace(day=2), pl.col("at") > START)
        assert counts == [day.filter(pl.col("customer") == c).height for c in range(7)]


def test_two_ingests_at_once_bring_every_row_once(tmp_path):
    open_project(tmp_path, a=payments(4000)).close()
    pair = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in pair] == ["ready\ndone\n"] * 2
    with FeatureStore(tmp_path) as store:
        assert sorted(offline_rows(store)[SEQUENCE]) == list(range(4000))
        assert store.verify("spend", sample=200).is_equal


def test_one_source_feeds_all_its_sets_by_the_sources_name(tmp_path):
    specs = Path(make_project(tmp_path) / "specs.yaml")
    specs.write_text(
        specs.read_text()
        + "---\nkind: FeatureSet\nname: visits\nentities: [customer]\nsource: payments\nhistory: all\n"
        "steps: [{select: [shop]}]\naggregations: [{functions: [count], windows: [1d]}]\n"
    )
    payments(20).write_parquet(tmp_path / "data" / "a.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
        assert sorted(r.feature_set for r in store.ingest("payments")) == ["spend", "visits"]


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    with open_project(tmp_path) as store, pytest.raises(RequestError, match="Did you mean 'spend'"):
        store.ingest("spemd")
