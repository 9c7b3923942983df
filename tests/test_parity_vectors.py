"""A vector read at t is the training row stamped t, and both are the oracle's, over the same rows.

Rows go through the door, the steps and the offline table, from there online; questions are at edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import oracle
import polars as pl
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st
from parity import INSTANT, check_cells, examples
from shop import PROFILE, SCORED, Judge, Row
from strategies import queries
from vector_stores import Stores, features, stores

CUSTOMERS = ["a", "b", "00123", "nobody", None]
SHOPS = [1, 2, 2**40, 9, None]


def ingest(made: Stores, source: str, rows: Sequence[Row]) -> None:
    """Ingest rows into all sets of a source of the shop."""
    made.ingest(shop.plans_of(source), shop.frame(source, rows))


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def kind(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """Each kind of online store, and its server."""
    return request.param, request.getfixturevalue("redis_url") if request.param == "redis" else None


@given(data=st.data())
@examples(20)
def test_entity_rows_of_several_sets_inputs_derive_and_impute(
    kind: tuple[str, Any], data: st.DataObject
) -> None:
    paid, visited = data.draw(shop.payments()), data.draw(shop.visits(max_rows=8))
    judge = Judge(paid, [row | {"__ingest_time": row["at"]} for row in visited])
    times = data.draw(queries(shop.SETS["spending"], [row["at"] for row in [*paid, *visited]]))
    asked = [
        {
            "customer": data.draw(st.sampled_from(CUSTOMERS)),
            "favourite": data.draw(st.sampled_from(SHOPS)),
            "bonus": data.draw(st.sampled_from([None, 0, 5, 2**62])),
            "t": t,
        }
        for t in [*times, *times[:3]]
    ]
    as_known = data.draw(st.booleans())
    with stores(*kind) as made:
        cut = data.draw(st.integers(0, len(paid)))
        for part in (paid[:cut], paid[cut:]):
            ingest(made, "payments", part)
        ingest(made, "visits", visited)
        rows = pl.DataFrame(
            asked, {"customer": pl.String, "favourite": pl.Int64, "bonus": pl.Int64, "t": pl.Int64}
        ).with_columns(pl.col("t").cast(INSTANT), note=pl.lit("kept"))
        training = made.training(PROFILE, rows, as_known=as_known)
        assert training.to_polars().select(rows.columns).equals(rows)
        offline = features(training, PROFILE)
        online = made.vectors(
            PROFILE,
            [{name: row[name] for name in ("customer", "favourite", "bonus")} for row in asked],
            [row["t"] for row in asked],
        )
        for question, trained, served in zip(asked, offline, online, strict=True):
            given = (question["customer"], question["favourite"], question["bonus"], question["t"])
            check_cells(judge.profile(*given, as_known=as_known), trained, ("offline", *given))
            assert served["error"] is None
            check_cells(judge.profile(*given), served, ("online", *given))


@given(data=st.data())
@examples(20)
def test_a_base_row_before_and_after_it_has_arrived(kind: tuple[str, Any], data: st.DataObject) -> None:
    paid, visited = data.draw(shop.payments()), data.draw(shop.visits(max_rows=6))
    judge = Judge(paid, [row | {"__ingest_time": row["at"]} for row in visited])
    asked = data.draw(shop.payments(max_rows=6))
    if paid:
        asked += data.draw(st.lists(st.sampled_from(paid), max_size=6))
    as_known = data.draw(st.booleans())
    with stores(*kind) as made:
        ingest(made, "payments", paid)
        ingest(made, "visits", visited)
        frame = shop.frame("payments", asked)
        training = made.training(SCORED, frame, as_known=as_known)
        kept = [name for name in frame.columns if name not in training.features]  # a feature takes its place
        assert training.to_polars().select(kept).equals(frame.select(kept))
        offline = features(training, SCORED)
        assert len(offline) == len(asked)
        said = [row | {name: shop.instant(row[name]) for name in ("at", "known_at")} for row in asked]
        online = made.vectors(SCORED, said, None)
        for row, trained, served in zip(asked, offline, online, strict=True):
            expected = judge.scored(row, as_known=as_known)
            if expected is None:
                assert "filter" in served["error"] or "deletion" in served["error"]
                continue
            check_cells(expected, trained, ("offline", row))
            assert trained["big"] == judge.label(row)
            assert served["error"] is None
            check_cells(judge.scored(row), served, ("online", row))


@given(data=st.data())
@examples(20)
def test_the_base_sets_own_rows_are_a_training_set(data: st.DataObject) -> None:
    """One row per event, by event time; each with the features and the label of its own instant."""
    paid = data.draw(shop.payments())
    judge = Judge(paid)
    as_known = data.draw(st.booleans())
    with stores("sqlite", None) as made:
        ingest(made, "payments", paid)
        training = made.training(SCORED, None, as_known=as_known)
        events = [
            (row["__event_time"], row["__key"], row["id"], row)
            for row in oracle.identified(judge.rows["spending"])
        ]
        found = training.to_polars().with_columns(pl.col("t").to_physical())
        assert sorted(found.select("t", "customer", "id").rows()) == sorted(event[:3] for event in events)
        assert found["t"].is_sorted()
        by_event = {event[:3]: event[3] for event in events}
        for row, trained in zip(found.to_dicts(), features(training, SCORED), strict=True):
            raw = by_event[row["t"], row["customer"], row["id"]]["__raw"]
            check_cells(judge.scored(raw, as_known=as_known), trained, raw)
            assert trained["big"] == judge.label(raw)
