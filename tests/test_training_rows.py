"""Training rows: a label ahead of its row, and which rows a vector or its caller leaves out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from visits_project import SPECS, asked, at, open_project

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.errors import RequestError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with open_project(tmp_path_factory.mktemp("rows") / "project") as made:
        yield made


ROWS = asked(
    ("ann", 5),
    ("eve", 5),
    (None, 5),
    ("ann", 5),
    ("nobody", 5),
    ("ann", 46),
    ("ann", 46.5),
    ("ann", 71),
    ("ann", 73),
)


def notes(made: Any) -> list[int]:
    return list(made.to_polars()["note"])


def everything(store: FeatureStore, **options: Any) -> Any:
    """Return a training set of `ahead` with the filters off, unless told otherwise."""
    off = {"where": "true", "end": "2100-01-01T00:00:00Z", "join": "left"}
    return store.get_offline_features("ahead", ROWS, **(off | options))


def test_a_label_is_read_at_its_offset_and_is_null_past_the_data(store: FeatureStore) -> None:
    """The newest payment is of hour 70, so labels of rows up to hour 46 are known."""
    made = everything(store)
    assert made.label == "amount_ahead"
    labels = [5.0, -3.0, None, 5.0, None, 2.0, None, None, None]
    assert list(made.to_polars()["amount_ahead"]) == labels
    assert made.pending == 3
    assert made.dropped == {}


@pytest.mark.parametrize(
    ("pending", "labels"),
    [("keep", [5.0, 2.0, 2.0, 2.0]), ("drop", [5.0, 2.0]), ("hide", [5.0, 2.0, None, None])],
)
def test_what_is_pending_is_kept_or_dropped_if_the_vector_says_so(
    tmp_path: Path, pending: str, labels: list[float | None]
) -> None:
    with open_project(tmp_path) as store:
        spec = SPECS.replace("offset: 1d}", f"offset: 1d, pending: {pending}}}")
        (tmp_path / "specs.yaml").write_text(spec)
        store.apply()
        rows = ROWS.filter(pl.col("note").is_in([0, 5, 6, 7]))
        made = store.get_offline_features("ahead", rows, where="true", join="left")
        assert list(made.to_polars()["amount_ahead"]) == labels
        assert made.pending == 2
        assert made.dropped == ({"label": 2} if pending == "drop" else {})


def test_labels_ignore_as_known_for_they_are_known_later(store: FeatureStore) -> None:
    known = everything(store, as_known=True).to_polars()
    assert known["amount_ahead"].equals(everything(store).to_polars()["amount_ahead"])


def test_the_vector_says_which_rows_stay_and_the_caller_may_say_otherwise(store: FeatureStore) -> None:
    declared = store.get_offline_features("ahead", ROWS)
    assert notes(declared) == [0, 3, 7]
    assert declared.dropped == {"range": 1, "join": 2, "where": 3}
    assert notes(store.get_offline_features("ahead", ROWS, join="left", where="true")) == [*range(8)]
    assert notes(everything(store)) == [*range(9)]
    assert notes(everything(store, join="inner")) == [0, 1, 3, 5, 6, 7, 8]
    assert notes(everything(store, where="amount_sum_1d <= 0")) == [1, 2, 4, 5, 6]
    assert notes(everything(store, where="amount_ahead is not null")) == [0, 1, 3, 5]
    assert notes(everything(store, where="spending.merchant_last_1d = 7")) == [1, 7, 8]
    assert notes(everything(store, start=at(46), end=at(71))) == [5, 6]


def test_inner_wants_a_row_of_the_entity_for_every_look_up(store: FeatureStore) -> None:
    """Bob's merchant has no rows, and ann's is past its ttl at hour 70; counts of 0 do not matter."""
    rows = asked(("ann", 7), ("bob", 7), ("cid", 7), ("dan", 7), ("eve", 7), ("ann", 29), ("ann", 71))
    assert notes(store.get_offline_features("chain", rows)) == [*range(7)]
    assert notes(store.get_offline_features("chain", rows, join="inner")) == [0, 4]
    conditions = {
        "city = 'nowhere'": [1, 2, 3, 5, 6],  # as it is imputed
        "merchants.city is null": [1, 2, 3, 5, 6],  # as it was found
        "city_rating_sum_7d = 8 and amount_sum_1d > 0": [0],
    }
    for where, kept in conditions.items():
        assert notes(store.get_offline_features("chain", rows, where=where)) == kept


def test_a_training_set_is_recorded_with_what_filtered_it_and_made_again(store: FeatureStore) -> None:
    first = store.get_offline_features("ahead", ROWS, start=at(5), where="amount_sum_1d > 3")
    registry = store.environment.registry
    recorded = registry.training_sets("chain", "ahead", limit=1)[0]
    assert recorded.parameters == {
        "event_time": "event_timestamp",
        "as_known": False,
        "start": int(at(5).timestamp() * 1_000_000),
        "end": int(datetime.fromisoformat("2026-03-04T00:00:00Z").timestamp() * 1_000_000),
        "where": "amount_sum_1d > 3",
        "join": "inner",
    }
    assert recorded.positions == first.positions
    again = store.vector(f"ahead@{recorded.fingerprint}").get_offline(
        ROWS, **recorded.parameters, positions=recorded.positions
    )
    assert again.to_polars().equals(first.to_polars())
    assert again.dropped == first.dropped


def test_a_condition_reads_sets_that_the_vector_does_not_serve(tmp_path: Path) -> None:
    """They are read for training alone: the request needs no key for them."""
    with open_project(tmp_path) as store:
        spec = SPECS.replace(
            'where: "amount_sum_1d > 0"', 'where: "cities.rating_sum_7d > 3 and spending.amount > 0"'
        )
        (tmp_path / "specs.yaml").write_text(spec)
        store.apply()
        rows = asked(("ann", 5), ("ann", 6), ("eve", 6)).with_columns(city=pl.Series(["x", "x", "x"]))
        assert notes(store.get_offline_features("ahead", rows)) == [1]
        assert store.vector("ahead").plan.request_keys == ("customer",)
        assert store.get_online_features("ahead", [{"customer": "ann"}], as_of=at(5)).rows == [[15.0]]
        with pytest.raises(RequestError, match="The rows lack the column 'city' that 'ahead' needs"):
            store.get_offline_features("ahead", rows.drop("city"))
        assert notes(store.get_offline_features("ahead", rows.drop("city"), where="true")) == [0, 1, 2]


def test_an_argument_that_cannot_be_used_is_refused(store: FeatureStore) -> None:
    with pytest.raises(RequestError, match=r"join='outer' is no kind of join"):
        everything(store, join="outer")
    with pytest.raises(RequestError, match="where: There is no column 'spent'"):
        everything(store, where="spent > 1")
    with pytest.raises(RequestError, match="where: 'amount_sum_1d' is of type float64, and must be true"):
        everything(store, where="amount_sum_1d")


def test_of_a_base_inner_looks_at_the_other_look_ups_and_a_refused_row_fails_conditions(
    tmp_path: Path,
) -> None:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "more.yaml").write_text(BASED)
    with open_project(tmp_path) as store:
        own = store.get_offline_features("scored")
        assert own.to_polars().sort("id").select("id", "city", "later").rows() == [
            ("p1", "x", 5.0),
            ("p2", "y", 5.0),
            ("p6", "x", -3.0),
        ]
        assert own.dropped == {"join": 4}
        raw = pl.read_parquet(tmp_path / "payments.parquet")
        raw = raw.with_columns(pl.when(pl.col("id") != "p2").then("at"))  # the door refuses one without
        bad = store.get_offline_features("scored", raw, join="left")
        assert bad.to_polars()["id"].to_list() == raw["id"].to_list()
        assert bad.to_polars().filter(id="p2")["city"].to_list() == [None]
        some = store.get_offline_features(
            "scored", raw, join="left", where="amount is not null or city is null"
        )
        assert some.to_polars()["id"].to_list() == ["p1", "p2", "p3", "p4", "p5", "p6", "p7"]
        assert "p2" not in store.get_offline_features("scored", raw).to_polars()["id"].to_list()


BASED = """
kind: FeatureVector
name: scored
base: spending
features:
  - spending.amount
  - {set: merchants, features: [city], keys: {merchant: spending.merchant_last_1d}}
label: {feature: spending.amount as later, offset: 12h, pending: keep}
training: {join: inner}
"""


def test_a_fit_is_over_the_rows_that_training_keeps(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    fitted = BASED.replace("name: scored", "name: fitted") + "impute: {amount: $mean, city: $mode}\n"
    (tmp_path / "more.yaml").write_text(fitted.replace("join: inner", "join: inner, where: 'later < 0'"))
    with open_project(tmp_path) as store:
        assert store.fit("fitted") == {"amount": {"mean": -3.0}, "city": {"mode": "x"}}
        store.apply()
        assert store.get_online_features(
            "fitted", [{"id": "n", "customer": "zoe", "merchant": None, "amount": None, "at": at(1)}]
        ).rows == [[-3.0, "x"]]


def test_the_command_line_says_how_many_rows_are_left_out(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    ROWS.write_csv(path)
    project = ["--project", str(store.root), "--json"]
    query = ["get-offline", "ahead", "--rows", str(path)]
    assert main([*query, *project]) == 0
    shown = capsys.readouterr()
    assert [row[-2:] for row in json.loads(shown.out)["rows"]] == [[15.0, 5.0], [15.0, 5.0], [2.0, None]]
    assert "left out" in shown.err
    assert main([*query, "--join", "left", "--where", "amount_ahead < 0", *project]) == 0
    assert [row[-2:] for row in json.loads(capsys.readouterr().out)["rows"]] == [[-3.0, -3.0]]
    assert main([*query, "--join", "outer", *project]) == 2


def test_vectors_without_training_keep_their_version(tmp_path: Path) -> None:
    """An empty `training:` says what is so without it."""
    with open_project(tmp_path) as store:
        before = store.vector("chain").plan.fingerprint
        (tmp_path / "specs.yaml").write_text(
            SPECS.replace("impute: {city: nowhere}", "impute: {city: nowhere}\ntraining: {join: left}")
        )
        assert not [c for c in store.plan() if c.name == "chain" and c.action != "unchanged"]
        assert store.vector("chain").plan.fingerprint == before
