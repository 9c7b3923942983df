"""Look-ups by features that other look-ups find: online at t, the training row at t and the oracle agree."""

from __future__ import annotations

import itertools
from typing import Any

import chains
import polars as pl
import pytest
import shop
from chains import CHAIN, SCORED, Judge
from hypothesis import given
from hypothesis import strategies as st
from parity import INSTANT, check_cells, examples
from strategies import HOUR, queries
from vector_stores import features, stores

SPANS = [HOUR, 6 * HOUR, HOUR // 2]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def kind(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """Each kind of online store, and its server."""
    return request.param, request.getfixturevalue("redis_url") if request.param == "redis" else None


@given(data=st.data())
@examples(30)
def test_keys_found_by_look_ups_and_a_label_ahead(kind: tuple[str, Any], data: st.DataObject) -> None:
    paid, opened = data.draw(chains.payments()), data.draw(chains.openings())
    judge = Judge(paid, opened)
    times = data.draw(queries(SPANS, [row["at"] for row in [*paid, *opened]]))
    asked = [
        {
            "customer": data.draw(st.sampled_from(["a", "b", "00123", "nobody", None])),
            "bonus": data.draw(st.sampled_from([None, 0, 5])),
            "t": t,
        }
        for t in times
    ]
    as_known = data.draw(st.booleans())
    with stores(*kind) as made:
        made.ingest(chains.plans_of("payments"), chains.frame("payments", paid))
        made.ingest(chains.plans_of("openings"), chains.frame("openings", opened))
        frame = pl.DataFrame(asked, {"customer": pl.String, "bonus": pl.Int64, "t": pl.Int64})
        frame = frame.with_columns(pl.col("t").cast(INSTANT))
        training = made.training(CHAIN, frame, as_known=as_known)
        requests = [{name: row[name] for name in ("customer", "bonus")} for row in asked]
        online = made.vectors(CHAIN, requests, [row["t"] for row in asked])
        for question, trained, served in zip(asked, features(training, CHAIN), online, strict=True):
            given = (question["customer"], question["bonus"], question["t"])
            check_cells(judge.chain(*given, as_known=as_known), trained, ("offline", *given))
            assert trained["count_ahead"] == judge.count_ahead(question["customer"], question["t"])
            assert served["error"] is None
            check_cells(judge.chain(*given), served, ("online", *given))
        assert training.pending == sum(judge.is_pending(row["t"]) for row in asked)


@given(data=st.data())
@examples(30)
def test_keys_found_for_a_base_row(kind: tuple[str, Any], data: st.DataObject) -> None:
    paid, opened = data.draw(chains.payments(whole=True)), data.draw(chains.openings())
    judge = Judge(paid, opened)
    asked = data.draw(chains.payments(whole=True, max_rows=6))
    if paid:
        asked += data.draw(st.lists(st.sampled_from(paid), max_size=6))
    as_known = data.draw(st.booleans())
    with stores(*kind) as made:
        made.ingest(chains.plans_of("payments"), chains.frame("payments", paid))
        made.ingest(chains.plans_of("openings"), chains.frame("openings", opened))
        training = made.training(SCORED, chains.frame("payments", asked), as_known=as_known)
        said = [row | {name: shop.instant(row[name]) for name in ("at", "known_at")} for row in asked]
        online = made.vectors(SCORED, said, None)
        for row, trained, served in zip(asked, features(training, SCORED), online, strict=True):
            check_cells(judge.scored(row, as_known=as_known), trained, ("offline", row))
            assert trained["amount_ahead"] == judge.amount_ahead(row)
            assert served["error"] is None
            check_cells(judge.scored(row), served, ("online", row))


@given(data=st.data())
@examples(20)
def test_filters_keep_the_rows_that_a_filter_of_the_whole_frame_keeps(data: st.DataObject) -> None:
    """Inner joins and conditions, alone and together, against the unfiltered training set."""
    paid, opened = data.draw(chains.payments()), data.draw(chains.openings())
    judge = Judge(paid, opened)
    times = data.draw(queries(SPANS, [row["at"] for row in [*paid, *opened]]))
    asked = [
        {"customer": customer, "bonus": bonus, "t": t}
        for t, customer, bonus in itertools.product(times, ["a", "b", None], [None, 3])
    ]
    where = data.draw(st.sampled_from([None, *CONDITIONS]))
    join = data.draw(st.sampled_from(["left", "inner"]))
    as_known = data.draw(st.booleans())
    with stores("sqlite", None) as made:
        made.ingest(chains.plans_of("payments"), chains.frame("payments", paid))
        made.ingest(chains.plans_of("openings"), chains.frame("openings", opened))
        frame = pl.DataFrame(asked, {"customer": pl.String, "bonus": pl.Int64, "t": pl.Int64})
        frame = frame.with_columns(pl.col("t").cast(INSTANT))
        whole = made.training(CHAIN, frame, as_known=as_known)
        condition = None if where is None else chains.condition(where)
        some = made.training(CHAIN, frame, as_known=as_known, where=condition, join=join)
        kept = []
        for question, row in zip(asked, features(whole, CHAIN), strict=True):
            found = judge.found(question["customer"], question["t"], as_known=as_known)
            holds = where is None or CONDITIONS[where](
                row | question, judge.fetched(question["customer"], question["t"], as_known=as_known)
            )
            kept.append((join == "left" or found) and holds is True)
        assert some.to_polars().equals(whole.to_polars().filter(pl.Series(kept, dtype=pl.Boolean)))
        assert sum(some.dropped.values()) == kept.count(False)


def _less(one: Any, other: Any) -> bool | None:
    return None if one is None or other is None else one < other


CONDITIONS = {
    "spent > 0": lambda row, _: _less(0, row["spent"]),
    "count_ahead is not null": lambda row, _: row["count_ahead"] is not None,
    "m_city = 'none'": lambda row, _: row["m_city"] == "none",  # imputed
    "merchants.city is null": lambda _, found: found["merchants.city"] is None,  # as it was found
    "best < bonus": lambda row, _: _less(row["best"], row["bonus"]),
    "labels.amount > 0": lambda _, found: _less(0, found["labels.amount"]),  # of an offline set
    "spending.amount > 0 and cities.rating_sum_6h > 3": lambda _, found: (
        bool(_less(0, found["spending.amount"])) and found["cities.rating_sum_6h"] > 3
    ),
    "true": lambda _row, _found: True,
}
