"""The judge of big runs: SQL over the events as they were made, and nothing of the code under test.

It compares every entity online, at several instants, and every row offline: of landing, of the sets' tables
and of the dead letters, to the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
from faults.traffic import Traffic

from featurestore import FeatureStore, tables

_AT_ONCE = 1000  # entities that one request asks for
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_COUNTING = """
WITH once AS (
  SELECT * FROM rows WHERE {key} IS NOT NULL AND {kept}
  QUALIFY row_number() OVER (PARTITION BY {key}, "at", id ORDER BY rank) = 1),
seen AS (SELECT *, {key} AS entity, ("at", rank) AS place FROM once WHERE "at" <= $t)
"""
"""Of the rows of one (entity, event time, id) the first counts; what happened after `t` is not seen."""

_SPENDING = (
    _COUNTING.format(key="customer", kept="true")
    + """
SELECT entity, arg_max_null(id, place) AS id, arg_max_null(rank, place) AS rank,
  arg_max_null(shop, place) AS shop, arg_max_null(amount, place) AS amount,
  arg_max_null(units, place) AS units, arg_max_null(kind, place) AS kind,
  coalesce(sum(amount) FILTER ("at" > $t - INTERVAL 1 HOUR), 0) AS amount_sum_1h,
  coalesce(sum(amount) FILTER ("at" > $t - INTERVAL 24 HOUR), 0) AS amount_sum_24h,
  sum(amount) FILTER ("at" > $t - INTERVAL 1 HOUR) / count(amount) FILTER ("at" > $t - INTERVAL 1 HOUR)
    AS amount_avg_1h,
  sum(amount) FILTER ("at" > $t - INTERVAL 24 HOUR) / count(amount) FILTER ("at" > $t - INTERVAL 24 HOUR)
    AS amount_avg_24h,
  max(amount) FILTER ("at" > $t - INTERVAL 1 HOUR) AS amount_max_1h,
  max(amount) FILTER ("at" > $t - INTERVAL 24 HOUR) AS amount_max_24h,
  arg_max(amount, place) FILTER ("at" > $t - INTERVAL 1 HOUR) AS amount_last_1h,
  arg_max(amount, place) FILTER ("at" > $t - INTERVAL 24 HOUR) AS amount_last_24h,
  coalesce(sum(units) FILTER ("at" > $t - INTERVAL 24 HOUR), 0) AS units_sum_24h,
  count(units) FILTER ("at" > $t - INTERVAL 24 HOUR) AS units_count_24h,
  arg_min(units, place) FILTER ("at" > $t - INTERVAL 24 HOUR) AS units_first_24h,
  count(DISTINCT kind) FILTER ("at" > $t - INTERVAL 24 HOUR) AS kind_count_distinct_24h,
  count(*) FILTER ("at" > $t - INTERVAL 1 HOUR) AS count_1h,
  count(*) FILTER ("at" > $t - INTERVAL 24 HOUR) AS count_24h
FROM seen GROUP BY entity"""
)
_TAKINGS = (
    _COUNTING.format(key="shop", kept="(units IS NULL OR units <> 6)")
    + """
SELECT entity,
  CASE WHEN max("at") > $t - INTERVAL 12 HOUR THEN arg_max_null(amount * 2, place) END AS double,
  CASE WHEN max("at") > $t - INTERVAL 12 HOUR THEN arg_max_null(kind, place) END AS kind,
  coalesce(sum(amount * 2) FILTER ("at" > $t - INTERVAL 2 HOUR), 0) AS double_sum_2h,
  max(amount * 2) FILTER ("at" > $t - INTERVAL 2 HOUR) AS double_max_2h,
  count(*) FILTER ("at" > $t - INTERVAL 24 HOUR) AS count_24h
FROM seen GROUP BY entity"""
)
_EMPTY = 0  # sums and counts of an empty window; all else is null
_ZEROS = ("sum", "count")


@dataclass(frozen=True)
class Verdict:
    """What was compared: entities, values online, rows offline. A difference raises instead."""

    entities: int
    values: int
    rows: int


class Judge:
    """Compares a project's stores with what `traffic` says, once all of it was applied."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._rows = traffic.valid

    def check(self, store: FeatureStore, *, moments: int = 4) -> Verdict:
        """Compare everything; raise AssertionError with the first differences."""
        rows = self.check_offline(store)
        entities, values = self.check_online(store, moments)
        return Verdict(entities, values, rows)

    def check_online(self, store: FeatureStore, moments: int) -> tuple[int, int]:
        """Compare every entity at some instants, two of them such that an edge falls on an event."""
        at = self._rows["at"].sort()
        picked = [at[len(at) * part // (moments + 1)] for part in range(1, moments + 1)]
        instants = [
            _EPOCH + timedelta(microseconds=self._traffic.end),
            *picked,
            picked[-1] + timedelta(hours=1),
        ]
        compared = 0
        asked: dict[str, tuple[str, str, list[Any]]] = {
            "of_customer": ("customer", _SPENDING, [*self._traffic.customers, "nobody"]),
            "of_shop": ("shop", _TAKINGS, [*self._traffic.shops, -1]),
        }
        for vector, (key, query, entities) in asked.items():
            reader = store.reader(vector)
            for instant in instants:
                expected = self._expected(query, instant)
                t = (instant - _EPOCH) // timedelta(microseconds=1)
                for first in range(0, len(entities), _AT_ONCE):
                    part = entities[first : first + _AT_ONCE]
                    found = reader.read([{key: entity} for entity in part], as_of=t)
                    names = [field.name for field in found.columns]
                    for entity, values, error in zip(part, found.rows, found.errors, strict=True):
                        assert error is None, error
                        row = expected.get(entity)
                        wanted = [row[name] if row else _EMPTY if _is_zero(name) else None for name in names]
                        got = [_plain(value) for value in values]
                        assert got == wanted, _difference(vector, entity, instant, names, wanted, got)
                        compared += len(names)
        return sum(len(entities) for _, _, entities in asked.values()), compared

    def check_offline(self, store: FeatureStore) -> int:
        """Compare landing, both sets' tables and the dead letters, to the row."""
        rows = self._rows
        plans = {name: store.catalog.feature_set(name) for name in ("spending", "takings")}
        source = plans["spending"].source
        takings = rows.filter(
            pl.col("shop").is_not_null(), pl.col("units").is_null() | (pl.col("units") != 6)
        )
        takings = takings.with_columns((pl.col("amount") * 2).alias("double"))
        columns = list(rows.columns)
        landing = store.environment.offline.table(tables.landing_table(source))
        _compare("landing", landing, rows, columns)
        _compare(
            "spending",
            store.environment.rows_table(plans["spending"]),
            rows.filter(pl.col("customer").is_not_null()),
            columns,
        )
        _compare(
            "takings",
            store.environment.rows_table(plans["takings"]),
            takings.drop("amount", "units", "customer"),
            ["rank", "double", "kind", "shop", "at"],
        )
        dead = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = dead.snapshot()
        found = [] if snapshot is None else sorted(dead.lazy(snapshot).collect()["payload"].to_list())
        refused = self._traffic.refused
        assert found == refused, f"{len(found)} dead letters, {len(refused)} are right"
        return 2 * rows.height + takings.height + len(refused)

    def _expected(self, query: str, instant: datetime) -> dict[Any, dict[str, Any]]:
        with duckdb.connect() as database:
            database.execute("SET TimeZone = 'UTC'")
            database.register("rows", self._rows.to_arrow())
            database.execute(query, {"t": instant})
            names = [column[0] for column in database.description]
            found = database.fetchall()
        return {row[0]: dict(zip(names, row, strict=True)) for row in found}


def _compare(name: str, table: Any, expected: pl.DataFrame, columns: list[str]) -> None:
    """Compare a table's rows with the expected ones; `rank` names a row of the traffic."""
    snapshot = table.snapshot()
    found = expected.clear() if snapshot is None else table.lazy(snapshot).collect()
    times = {"at": "__event_time", "rank": "__order"}
    there = [pl.col(column if column in found.columns else times[column]).alias(column) for column in columns]
    places = found.select("__partition", "__sequence")
    found = found.select(there)
    lost = expected.join(found, on="rank", how="anti").height
    strange = found.join(expected, on="rank", how="anti").height
    double = found.height - found["rank"].n_unique()
    assert (lost, double, strange) == (0, 0, 0), f"{name}: {lost} lost, {double} doubled, {strange} not sent"
    assert places.n_unique() == places.height, f"{name}: a position has two rows"
    ordered = expected.select(columns).sort("rank")
    same = found.sort("rank").with_columns(pl.col(c).cast(ordered[c].dtype) for c in columns)
    assert ordered.equals(same), f"{name}: values differ"


def _is_zero(name: str) -> bool:
    return any(part in name.split("_") for part in _ZEROS)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _difference(
    vector: str, entity: Any, t: datetime, names: list[str], wanted: list[Any], got: list[Any]
) -> str:
    wrong = [
        f"{name} is {found}, {right} is right"
        for name, right, found in zip(names, wanted, got, strict=True)
        if right != found
    ]
    return f"{vector} of {entity} at {t}: {'; '.join(wrong)}"
