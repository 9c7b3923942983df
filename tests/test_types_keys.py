"""Keys, event ids and order_by of every type that may be one: typed, to the last value of the type.

Rows come by batch; what is asked for online and in training is found by the key's own type and by whatever
loses nothing, and by nothing else (DESIGN 3.12).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from served import Service, running

from featurestore import FeatureStore
from featurestore.errors import RequestError, SpecError
from featurestore.types import DataType

AT = datetime(2026, 3, 1, tzinfo=UTC)
NOON = "2026-03-01T12:00:00Z"
FIRST, FINAL = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
BEFORE = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)

KEYS: dict[str, list[Any]] = {
    **{f"int{n}": [-(2 ** (n - 1)), 2 ** (n - 1) - 1, 0, 1] for n in (8, 16, 32, 64)},
    **{f"uint{n}": [2**n - 1, 0, 1] for n in (8, 16, 32, 64)},
    "string": ["", "00123", "123", "1.0", "\U0001d518e\u0301", "\u00e9", "e\u0301", "a\x00b", "x" * 1000],
    "binary": [b"", b"\x00", b"\x00\x00", bytes(range(256))],
    "bool": [True, False],
    "date": [date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31), date(1970, 1, 1)],
    "timestamp": [FIRST, FINAL, BEFORE, AT],
}
CONFIG = json.dumps({"project": "keys", "online": {"kind": "sqlite"}})


def specs() -> str:
    """Return an entity, a source, a set and a vector per type of key."""
    made = []
    for kind in KEYS:
        made.append(
            f"kind: Entity\nname: {kind}_entity\ntype: {kind}\n---\n"
            f"kind: Source\nname: {kind}_rows\nevent_time: at\nevent_id: id\n"
            f"schema: {{key: {kind}, at: timestamp, id: {kind}, number: int64}}\n---\n"
            f"kind: FeatureSet\nname: {kind}_set\nentities: [{{{kind}_entity: key}}]\nsource: {kind}_rows\n"
            f"history: all\naggregations:\n  - {{functions: [count], windows: [1d]}}\n---\n"
            f"kind: FeatureVector\nname: {kind}-vector\nfeatures: [{kind}_set.*]"
        )
    return "\n---\n".join(made)


def rows(kind: str) -> pl.DataFrame:
    """Return a row per key and id, each twice: the id is one of the values too."""
    values = KEYS[kind]
    found = [(key, AT, other, n) for n, key in enumerate(values) for other in values] * 2
    dtype = DataType.parse(kind).polars()
    instant = pl.Datetime("us", "UTC")
    schema = {"key": dtype, "at": instant, "id": dtype, "number": pl.Int64()}
    return pl.DataFrame(found, schema=schema, orient="row")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A project with rows of every key."""
    root = tmp_path_factory.mktemp("keys")
    (root / "featurestore.yaml").write_text(CONFIG)
    (root / "specs.yaml").write_text(specs())
    with FeatureStore(root) as store:
        store.apply()
        for kind in KEYS:
            [report] = store.ingest(f"{kind}_set", rows(kind))
            assert report.counts == {}
        yield store


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    """The project's service."""
    with running(store) as started:
        yield started


@pytest.mark.parametrize("kind", KEYS)
def test_every_key_finds_its_own_rows_and_every_id_counts_once(
    store: FeatureStore, service: Service, kind: str
) -> None:
    values = KEYS[kind]
    expected = [(number, len(values)) for number in range(len(values))]
    asked = pl.DataFrame(
        {
            f"{kind}_entity": pl.Series(values, dtype=DataType.parse(kind).polars()),
            "event_timestamp": [NOON] * len(values),
        }
    )
    trained = store.get_offline_features(f"{kind}-vector", asked).to_polars()
    assert trained.select("number", "count_1d").rows() == expected
    wanted = [{f"{kind}_entity": value} for value in values]
    local = store.get_online_features(f"{kind}-vector", wanted, as_of=NOON)
    assert [(row["number"], row["count_1d"]) for row in local.to_dicts()] == expected
    with FeatureStore.connect(service.url) as client:
        remote = client.get_online_features(f"{kind}-vector", wanted, as_of=NOON)
    assert remote.to_dicts() == local.to_dicts()
    assert set(map(tuple, remote.status)) == {("PRESENT",) * len(local.columns)}


SAME: list[tuple[str, list[Any], int]] = [
    ("int64", [1, 1.0, Decimal("1.00"), np.int8(1), np.uint64(1), np.float32(1.0)], 3),
    ("int8", [1, 1.0, np.int64(1)], 3),
    ("uint64", [2**64 - 1, np.uint64(2**64 - 1)], 0),
    ("bool", [True, np.bool_(True)], 0),
    ("date", [date(1970, 1, 1), "1970-01-01"], 3),
    ("timestamp", [AT, "2026-03-01T00:00:00Z", "2026-03-01T01:00:00+01:00", AT.astimezone()], 3),
    ("timestamp", ["1969-12-31T23:59:59.999999999Z", BEFORE], 2),
    ("binary", [b"\x00\x00", "AAA="], 2),
]


@pytest.mark.parametrize(("kind", "forms", "number"), SAME)
def test_what_loses_nothing_is_the_same_key(
    store: FeatureStore, kind: str, forms: list[Any], number: int
) -> None:
    wanted = [{f"{kind}_entity": form} for form in forms]
    found = store.get_online_features(f"{kind}-vector", wanted, as_of=NOON).to_dicts()
    assert [row["number"] for row in found] == [number] * len(forms)


OTHER: list[tuple[str, Any]] = [
    ("int64", "1"),
    ("int64", 1.5),
    ("int64", True),
    ("int64", 2**63),
    ("int8", 128),
    ("uint8", -1),
    ("string", 123),
    ("string", b"123"),
    ("binary", "not base64"),
    ("bool", 1),
    ("date", "1970-01-01T00:00:00Z"),
    ("date", AT),
    ("timestamp", "2026-03-01T00:00:00"),
    ("timestamp", "2026-03-01"),
    ("int64", Decimal("1.5")),
]


@pytest.mark.parametrize(("kind", "key"), OTHER)
def test_a_key_of_another_type_is_invalid_and_fails_alone(store: FeatureStore, kind: str, key: Any) -> None:
    asked = [{f"{kind}_entity": key}, {f"{kind}_entity": KEYS[kind][0]}]
    found = store.get_online_features(f"{kind}-vector", asked, as_of=NOON)
    assert set(found.status[0]) == {"INVALID"}
    assert found.errors[0] is not None
    assert found.errors[0].startswith(f"{kind}_entity: ")
    assert set(found.status[1]) == {"PRESENT"}


@pytest.mark.parametrize("kind", ["int64", "string", "binary", "date", "timestamp", "bool", "uint64"])
def test_a_null_key_is_no_entity(store: FeatureStore, kind: str) -> None:
    [status] = store.get_online_features(f"{kind}-vector", [{f"{kind}_entity": None}], as_of=NOON).status
    assert "NOT_FOUND" in status
    assert "INVALID" not in status


TRAINING: list[tuple[str, pl.Series, list[int | None]]] = [
    ("int64", pl.Series([1, 0], dtype=pl.UInt8), [3, 2]),
    ("int64", pl.Series([1.0, float("nan"), None]), [3, None, None]),
    ("int8", pl.Series([1, -128], dtype=pl.Int64), [3, 0]),
    ("date", pl.Series(["1970-01-01", "0001-01-01"]), [3, 0]),
    ("timestamp", pl.Series(["2026-03-01T00:00:00Z"]), [3]),
    ("timestamp", pl.Series([AT], dtype=pl.Datetime("ms", "Europe/Paris")), [3]),
    ("string", pl.Series(["123", "00123"], dtype=pl.Categorical), [2, 1]),
    ("binary", pl.Series(["AAA="]), [2]),
]


@pytest.mark.parametrize(("kind", "series", "numbers"), TRAINING)
def test_a_training_frame_may_hold_keys_in_another_type_that_loses_nothing(
    store: FeatureStore, kind: str, series: pl.Series, numbers: list[int | None]
) -> None:
    asked = pl.DataFrame({f"{kind}_entity": series, "event_timestamp": [NOON] * len(series)})
    assert store.get_offline_features(f"{kind}-vector", asked).to_polars()["number"].to_list() == numbers


@pytest.mark.parametrize(
    ("kind", "series"),
    [
        ("int64", pl.Series(["1"])),
        ("int64", pl.Series([1.5])),
        ("string", pl.Series([1])),
        ("bool", pl.Series([1])),
    ],
)
def test_a_training_frame_with_keys_of_another_type_is_refused(
    store: FeatureStore, kind: str, series: pl.Series
) -> None:
    asked = pl.DataFrame({f"{kind}_entity": series, "event_timestamp": [NOON]})
    with pytest.raises(RequestError, match=kind):
        store.get_offline_features(f"{kind}-vector", asked)


ORDERS: dict[str, list[Any]] = {  # ascending; a null comes before them all
    "int8": [-128, 0, 127],
    "int64": [-(2**63) + 1, -1, 0, 2**63 - 1],
    "uint64": [1, 2**63 - 1, 2**63, 2**64 - 1],
    "float32": [float("-inf"), -1.0, 0.0, 1e-45, float("inf"), float("nan")],
    "float64": [float("-inf"), -1e308, -5e-324, 0.0, 5e-324, float("inf"), float("nan")],
    "decimal(18,2)": [
        Decimal("-9999999999999999.99"),
        Decimal("-0.01"),
        Decimal("0.00"),
        Decimal("9999999999999999.99"),
    ],
    "bool": [False, True],
    "date": [date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31)],
    "timestamp": [FIRST, BEFORE, BEFORE + timedelta(microseconds=1), FINAL],
}


@pytest.mark.parametrize("kind", ORDERS)
def test_order_by_orders_rows_of_one_instant_by_the_values_of_its_type(tmp_path: Path, kind: str) -> None:
    """Entity n has the first n of null and the values, in no order: the newest is the n-th."""
    (tmp_path / "featurestore.yaml").write_text(CONFIG)
    (tmp_path / "specs.yaml").write_text(
        "kind: Entity\nname: size\ntype: int64\n---\n"
        f"kind: Source\nname: rows\nevent_time: at\norder_by: rank\nschema:\n  size: int64\n  at: timestamp\n"
        f"  rank: {kind}\n  number: int64\n---\n"
        "kind: FeatureSet\nname: ordered\nentities: [size]\nsource: rows\nhistory: all\naggregations:\n"
        "  - {column: number, functions: [last_k], k: 9, windows: [1d]}\n---\n"
        "kind: FeatureVector\nname: latest\nfeatures: [ordered.number, ordered.number_last_k_1d]"
    )
    values = [None, *ORDERS[kind]]
    found = [
        (size, AT, values[number], number)
        for size in range(1, len(values) + 1)
        for number in sorted(range(size), key=lambda number: number * 7 % 5)
    ]
    schema = {
        "size": pl.Int64(),
        "at": pl.Datetime("us", "UTC"),
        "rank": DataType.parse(kind).polars(),
        "number": pl.Int64(),
    }
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.ingest("ordered", pl.DataFrame(found, schema=schema, orient="row"))
        expected = [(size - 1, list(range(size))) for size in range(1, len(values) + 1)]
        sizes = list(range(1, len(values) + 1))
        asked = pl.DataFrame({"size": sizes, "event_timestamp": [NOON] * len(sizes)})
        trained = store.get_offline_features("latest", asked).to_polars()
        assert trained.select("number", "number_last_k_1d").rows() == expected
        online = store.get_online_features("latest", [{"size": size} for size in sizes], as_of=NOON)
        assert [tuple(row) for row in online.rows] == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("event_id: wrong", "'wrong' is of type float64; equal ids must be equal bytes"),
        ("event_id: [key, many]", r"'many' is of type list<int64>; equal ids must be equal bytes"),
        ("event_id: made", r"'made' is of type vector<float32,2>"),
        ("order_by: text", "'text' is of type string; rows are ordered by a number"),
        ("order_by: wide", r"'wide' is of type decimal\(38,2\)"),
        ("order_by: many", r"'many' is of type list<int64>"),
        ("ingest_time: day", "'day' is of type date, and must be a timestamp"),
    ],
)
def test_what_cannot_identify_or_order_is_refused_where_it_is_declared(
    tmp_path: Path, lines: str, message: str
) -> None:
    (tmp_path / "featurestore.yaml").write_text(CONFIG)
    (tmp_path / "specs.yaml").write_text(
        f"kind: Source\nname: rows\nevent_time: at\n{lines}\nschema:\n  key: int64\n  at: timestamp\n"
        "  day: date\n  wrong: float64\n  many: list<int64>\n  made: vector<float32,2>\n  text: string\n"
        "  wide: decimal(38,2)\n"
    )
    with pytest.raises(SpecError, match=message):
        FeatureStore(tmp_path).validate()


@pytest.mark.parametrize("kind", ["float64", "decimal(10,2)", "list<int64>", "vector<float32,2>"])
def test_what_is_no_type_of_a_key_is_refused_where_it_is_declared(tmp_path: Path, kind: str) -> None:
    (tmp_path / "featurestore.yaml").write_text(CONFIG)
    (tmp_path / "specs.yaml").write_text(f"kind: Entity\nname: thing\ntype: {kind}\n")
    with pytest.raises(SpecError, match="no type of a key"):
        FeatureStore(tmp_path).validate()
