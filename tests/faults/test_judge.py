"""The judge of big runs finds one event that is lost, one that counts twice, and one value that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from faults.judge import Judge
from faults.traffic import Traffic, make_project

from featurestore import FeatureStore

COUNT = 1500


@pytest.fixture
def traffic() -> Traffic:
    """Some events."""
    return Traffic(1, COUNT, customers=40, shops=5)


@pytest.fixture
def store(tmp_path: Path, traffic: Traffic) -> FeatureStore:
    """A project that has applied them all."""
    store = FeatureStore(make_project(tmp_path, {"kind": "sqlite"}))
    store.apply()
    topic = store.environment.stream(store.catalog.source("payments"))
    topic.append([(None, payload) for payload in traffic.payloads(0, COUNT)])
    store.drain()
    return store


def test_it_agrees_with_stores_that_are_right(store: FeatureStore, traffic: Traffic) -> None:
    verdict = Judge(traffic).check(store)
    assert verdict.entities == 40 + 1 + 5 + 1
    assert verdict.rows > 2 * COUNT
    store.close()


def without_one(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows without one that counts."""
    return rows.filter(pl.col("rank") != rows.filter(pl.col("id").is_unique())["rank"][-1])


def with_another_amount(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with one amount changed."""
    largest = pl.col("amount") == pl.col("amount").max()
    return rows.with_columns(pl.when(largest).then(7.5).otherwise("amount").alias("amount"))


@pytest.mark.parametrize(
    ("change", "offline"), [(without_one, "0 lost, 0 doubled, 1 not sent"), (with_another_amount, "differ")]
)
def test_it_finds_one_row_that_should_not_be_or_is_another(
    store: FeatureStore, traffic: Traffic, change: Callable[[pl.DataFrame], pl.DataFrame], offline: str
) -> None:
    traffic.sent = change(traffic.sent)
    judge = Judge(traffic)
    with pytest.raises(AssertionError, match=offline):
        judge.check_offline(store)
    with pytest.raises(AssertionError, match=" is right"):
        judge.check_online(store, moments=4)
    store.close()


def test_it_finds_one_row_that_is_lost(store: FeatureStore, traffic: Traffic) -> None:
    one = traffic.valid[-1:].with_columns(id=pl.lit("another"), rank=pl.lit(1 << 40), fault=pl.lit(0))
    traffic.sent = pl.concat([traffic.sent, one.select(traffic.sent.columns)], how="vertical_relaxed")
    judge = Judge(traffic)
    with pytest.raises(AssertionError, match="1 lost, 0 doubled, 0 not sent"):
        judge.check_offline(store)
    with pytest.raises(AssertionError, match=" is right"):
        judge.check_online(store, moments=4)
    store.close()
