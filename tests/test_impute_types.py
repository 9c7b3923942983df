"""Null is imputed in a feature of any type: by constants, and by statistics that were fitted."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from payments_project import CONFIG, make_project

from featurestore import FeatureStore
from featurestore.errors import RequestError, SpecError
from featurestore.instants import from_datetime
from featurestore.specs.problems import SpecErrors

START = datetime(2026, 3, 1, tzinfo=UTC)
SPECS = """
kind: Entity
name: customer
---
kind: Source
name: rows
event_time: at
schema: {customer: string, at: timestamp, raw: binary, doc: json, price: "decimal(10,2)", big: uint64,
         ratio: float32, day: date, flag: bool}
---
kind: FeatureSet
name: made
entities: [customer]
source: rows
history: all
---
kind: FeatureVector
name: filled
features: [made.*]
impute: IMPUTE
"""
ROW: dict[str, Any] = {
    "customer": "known",
    "at": START,
    "raw": b"\x00\xff",
    "doc": '{"b": [1.0]}',
    "price": Decimal("1.25"),
    "big": 2**64 - 1,
    "ratio": 0.5,
    "day": date(2026, 1, 2),
    "flag": True,
}


def a_store(folder: Path, impute: str) -> FeatureStore:
    return FeatureStore(make_project(folder, SPECS.replace("IMPUTE", impute), CONFIG))


def rows(**changed: Any) -> pl.DataFrame:
    kinds = {"price": pl.Decimal(10, 2), "big": pl.UInt64, "ratio": pl.Float32}
    unknown = dict.fromkeys(ROW) | {"customer": "unknown", "at": START}
    return pl.DataFrame([ROW | changed, unknown], schema_overrides=kinds)


def imputed(store: FeatureStore) -> dict[str, Any]:
    """Return the vector of an entity whose every feature is null, once offline and online agree."""
    at = START + timedelta(hours=1)
    asked = pl.DataFrame({"customer": ["unknown"], "event_timestamp": [at]})
    [trained] = store.get_offline_features("filled", asked).to_polars().drop(asked.columns).to_dicts()
    served = store.get_online_features("filled", [{"customer": "unknown"}], as_of=from_datetime(at))
    assert served.to_dicts() == [trained]
    return trained


def test_constants_are_written_as_values_of_a_request_are(tmp_path: Path) -> None:
    constants = '{raw: AP8=, doc: {b: [1.0]}, price: "0.10", big: 18446744073709551615, ratio: -0.0,'
    with a_store(tmp_path, constants + " day: 2026-01-02, flag: false}") as store:
        store.apply()
        store.ingest("made", rows())
        found = imputed(store)
        assert found == {
            "raw": b"\x00\xff",
            "doc": '{"b":[1]}',
            "price": Decimal("0.10"),
            "big": 2**64 - 1,
            "ratio": 0.0,
            "day": date(2026, 1, 2),
            "flag": False,
        }
        assert str(found["ratio"]) == "0.0", "-0.0 is 0.0"


def test_the_mode_of_any_type_is_fitted(tmp_path: Path) -> None:
    with a_store(tmp_path, '{"*": $mode}') as store:
        applied_and_fitted(store, rows())
        assert imputed(store) == {
            "raw": b"\x00\xff",
            "doc": '{"b":[1]}',
            "price": Decimal("1.25"),
            "big": 2**64 - 1,
            "ratio": 0.5,
            "day": date(2026, 1, 2),
            "flag": True,
        }


def test_statistics_stay_within_their_type(tmp_path: Path) -> None:
    with a_store(tmp_path, "{big: $mean, price: $max}") as store:
        applied_and_fitted(store, rows())
        found = imputed(store)
        assert found["big"] == 2**64 - 1, "its float is 2**64"
        assert found["price"] == Decimal("1.25")


def test_infinities_are_left_out_of_a_fit(tmp_path: Path) -> None:
    with (
        a_store(tmp_path, "{ratio: $max}") as store,
        pytest.raises(RequestError, match="'ratio' of 'filled' has no value"),
    ):
        applied_and_fitted(store, rows(ratio=float("inf")))


def applied_and_fitted(store: FeatureStore, given: pl.DataFrame) -> None:
    store.apply()
    store.ingest("made", given)
    asked = pl.DataFrame({"customer": ["known"], "event_timestamp": [START + timedelta(hours=1)]})
    store.fit("filled", rows=asked)
    store.apply()


@pytest.mark.parametrize(
    ("impute", "message"),
    [
        ("{ratio: 1e300}", "1e+300 is no float32"),
        ("{ratio: .inf}", "inf is no float32"),
        ("{ratio: .nan}", "nan is no float32"),
        ("{raw: '?'}", "'?' is no binary"),
        ("{doc: '{'}", "'{' is no json"),
        ("{doc: 1}", "1 is no json"),
        ("{big: -1}", "-1 is no uint64"),
    ],
)
def test_what_is_no_value_of_the_type_is_refused_with_its_place(
    tmp_path: Path, impute: str, message: str
) -> None:
    with a_store(tmp_path, impute) as store, pytest.raises((SpecError, SpecErrors)) as refused:
        store.apply()
    assert "specs.yaml:20: impute." in str(refused.value)
    assert message in str(refused.value)
