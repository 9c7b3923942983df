"""Every type, at its extremes, by every way in, comes out of every way out as the value that went in.

One project holds a column of each type. The i-th row has the i-th extreme value of every column; each row is
an entity of its own. What a way in cannot say (JSON has no NaN, CSV no lists) is left out of it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from served import Service, running

from featurestore import FeatureStore
from featurestore.aggregates import FUNCTIONS
from featurestore.types import DataType

NAN, INF = math.nan, math.inf
D = Decimal
FIRST, FINAL = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
INSTANTS = [
    FIRST,
    FINAL,
    EPOCH,
    EPOCH - MICROSECOND,
    datetime(1582, 10, 4, 12, tzinfo=UTC),
    EPOCH + MICROSECOND,
]
DAYS = [date(1, 1, 1), date(9999, 12, 31), date(1970, 1, 1), date(1969, 12, 31), date(2024, 2, 29)]
TEXTS = [
    "",
    " ",
    "00123",
    "null",
    "NaN",
    "e\u0301\u0301 \u00e9",  # combining marks stay as they are: nothing is normalised
    "\U0001d518\U0001f469\u200d\U0001f469\u200d\U0001f467\U0010ffff",
    "\u2028\x7f\x01\u200f",
    'quote " comma, line\nend',
    "x" * 5000,
]
BYTES = [b"", b"\x00", bytes(range(256)), b"\xff" * 3000]


def f32(*values: float) -> list[float]:
    """Return the nearest float32 values."""
    return [float(np.float32(value)) for value in values]


VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    **{f"int{n}": [-(2 ** (n - 1)), 2 ** (n - 1) - 1, 0, -1] for n in (8, 16, 32, 64)},
    **{f"uint{n}": [2**n - 1, 0, 2 ** (n - 1)] for n in (8, 16, 32, 64)},
    "float32": [NAN, INF, -INF, -0.0, *f32(3.4028234663852886e38, 1e-45, 0.1, -16777217.0)],
    "float64": [NAN, INF, -INF, -0.0, 1.7976931348623157e308, 5e-324, 0.1, 2.0**53, -1e16],
    "decimal(38,10)": [
        D("9" * 28 + "." + "9" * 10),
        D("-" + "9" * 28 + "." + "9" * 10),
        D("0E-10"),
        D("1E-10"),
    ],
    "decimal(38,0)": [D("9" * 38), D("-" + "9" * 38), D(0)],
    "decimal(5,5)": [D("0.99999"), D("-0.00001")],
    "string": TEXTS,
    "binary": BYTES,
    "date": DAYS,
    "timestamp": INSTANTS,
    "json": ['{"a":[1,null,{"é":"x"}]}', "[]", '"text"', "123456789012345678901234567890", "false"],
    "list<int64>": [[], [None], [2**63 - 1, -(2**63), None, 2**53 + 1], [0] * 100],
    "list<uint64>": [[2**64 - 1, 0, None], []],
    "list<float64>": [[NAN, INF, -INF, -0.0, None], [], [5e-324, 0.1]],
    "list<float32>": [f32(0.1, 1e-45), [None, NAN]],
    "list<bool>": [[True, None, False], []],
    "list<string>": [TEXTS, [None], [], [""]],
    "list<binary>": [BYTES, [None], []],
    "list<decimal(38,10)>": [[D("9" * 28 + "." + "9" * 10), None, D("-1E-10")], []],
    "list<date>": [DAYS, [None], []],
    "list<timestamp>": [INSTANTS, [None], []],
    "list<list<int64>>": [[[], None, [1, None], [2**63 - 1]], [], [[]], [None]],
    "list<list<timestamp>>": [[INSTANTS, None, [], [None]], []],
    "list<list<string>>": [[TEXTS, None, []], [[""]]],
    "list<list<decimal(38,10)>>": [[[D("1E-10")], None], []],
    "vector<float32,3>": [f32(0.1, -1e30, 1e-45), [NAN, INF, -0.0]],
    "vector<float64,2>": [[0.1, 5e-324], [NAN, -INF]],
    "vector<float32,1>": [[1.0]],
    "list<vector<float32,2>>": [[f32(0.1, 2.0), None, [NAN, 0.0]], [], [None]],
}
TYPES = {f"c{place}": DataType.parse(text) for place, text in enumerate(VALUES)}
COLUMN = {text: name for name, text in zip(TYPES, VALUES, strict=True)}
ROWS = max(map(len, VALUES.values())) + 1  # and one of nulls
AT = datetime(2026, 3, 1, tzinfo=UTC)
NOON = "2026-03-01T12:00:00Z"
SINGLE = ("first", "last", "min", "max", "mode")
COUNTING = ("count", "count_distinct")
LISTING = ("first_k", "last_k", "top_k", "bottom_k", "distinct")
ROUTES = ["parquet", "ndjson", "csv", "stream"]


def value(text: str, row: int) -> Any:
    """Return the value of a type's column in a row; null past the last."""
    return VALUES[text][row] if row < len(VALUES[text]) else None


def has_lists(kind: DataType) -> bool:
    """Return whether a type's values are lists, for which CSV has no form."""
    return kind.item is not None


def sayable(value: Any) -> bool:
    """Return whether JSON has a form for a value: not for NaN and infinities."""
    if isinstance(value, list):
        return all(map(sayable, value))
    return not isinstance(value, float) or math.isfinite(value)


def sent(route: str, text: str, row: int) -> Any:
    """Return the value that comes in by a route."""
    found = value(text, row)
    if route in ("ndjson", "stream") and not sayable(found):
        return None
    return None if route == "csv" and has_lists(DataType.parse(text)) else found


def kept(value: Any) -> Any:
    """Return the value as the store has it: -0.0 is 0.0."""
    if isinstance(value, list):
        return [kept(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


def row_form(value: Any) -> Any:
    """Return a value as results hold it: instants in microseconds, dates in days."""
    if isinstance(value, list):
        return [row_form(item) for item in value]
    if isinstance(value, datetime):
        return (value - EPOCH) // MICROSECOND
    return (value - EPOCH.date()).days if isinstance(value, date) else value


def json_in(value: Any) -> Any:
    """Return a value as an event says it."""
    if isinstance(value, list):
        return [json_in(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def json_out(value: Any) -> Any:
    """Return a value as the service's JSON says it."""
    if isinstance(value, list):
        return [json_out(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return str(value)
    return json_in(value)


def csv_text(value: Any) -> str:
    """Return a value as a quoted field."""
    text = str(value).lower() if isinstance(value, bool) else str(json_in(value))
    return '"' + text.replace('"', '""') + '"'


def told(value: Any) -> Any:
    """Return what tells two values apart: NaN is itself, 0.0 is not -0.0, 1 is not 1.0 or true."""
    if isinstance(value, list):
        return [told(item) for item in value]
    if isinstance(value, Decimal):
        return "decimal", format(value, "f")
    if isinstance(value, datetime):
        assert value.utcoffset() == timedelta(0)
        return "timestamp", (value - EPOCH) // MICROSECOND
    return type(value).__name__, repr(value)


@dataclass(frozen=True)
class Filled:
    """An applied project with rows by every route, and its service."""

    store: FeatureStore
    service: Service

    def training(self, route: str) -> pl.DataFrame:
        """Return the training set of all entities at noon."""
        asked = pl.DataFrame({"entity": [f"e{row}" for row in range(ROWS)], "event_timestamp": [NOON] * ROWS})
        return self.store.get_offline_features(f"all-{route}", asked).to_polars()

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The online request's rows."""
        return [{"entity": f"e{row}"} for row in range(ROWS)]


def aggregations(route: str) -> str:
    """Return, per column, every function that takes it and gives one of its values."""
    lines = []
    for name, kind in TYPES.items():
        if route == "csv" and has_lists(kind):
            continue
        functions = [f for f in (*SINGLE, *COUNTING, *LISTING) if FUNCTIONS[f].accepts(kind)]
        lines.append(f"  - {{column: {name}, functions: [{', '.join(functions)}], k: 3, windows: [1d]}}")
    return "\n".join(lines)


def specs() -> str:
    """Return a source, a set and a vector per route."""
    halves = {
        "parquet": 'batch: {kind: parquet, path: "data/*.parquet"}',
        "ndjson": 'batch: {kind: json, path: "data/*.ndjson"}',
        "csv": 'batch: {kind: csv, path: "data/*.csv"}',
        "stream": "stream: {topic: rows}",
    }
    made = ["kind: Entity\nname: entity\ntype: string"]
    for route, half in halves.items():
        kept = {n: k for n, k in TYPES.items() if route != "csv" or not has_lists(k)}
        columns = "\n".join(f"  {name}: {kind}" for name, kind in kept.items())
        made.append(
            f"kind: Source\nname: {route}_rows\nevent_time: at\nevent_id: entity\n{half}\n"
            f"schema:\n  entity: string\n  at: timestamp\n{columns}"
        )
        made.append(
            f"kind: FeatureSet\nname: {route}_set\nentities: [entity]\nsource: {route}_rows\nhistory: all\n"
            f"aggregations:\n{aggregations(route)}"
        )
        made.append(f"kind: FeatureVector\nname: all-{route}\nfeatures: [{route}_set.*]")
        made.append(f"kind: FeatureVector\nname: base-{route}\nbase: {route}_set\nfeatures: [{route}_set.*]")
    return "\n---\n".join(made)


def typed_rows() -> pl.DataFrame:
    """Return the rows, exactly typed."""
    columns = [
        pl.Series("entity", [f"e{row}" for row in range(ROWS)]),
        pl.Series("at", [AT] * ROWS, pl.Datetime("us", "UTC")),
    ]
    for text in VALUES:
        values = [value(text, row) for row in range(ROWS)]
        columns.append(pl.Series(COLUMN[text], values, dtype=DataType.parse(text).polars()))
    return pl.DataFrame(columns)


def write_rows(data: Path) -> list[bytes]:
    """Write the rows as files; return them as events."""
    data.mkdir()
    typed_rows().write_parquet(data / "rows.parquet")
    events = [
        json.dumps(
            {"entity": f"e{row}", "at": AT.isoformat()}
            | {COLUMN[text]: json_in(sent("stream", text, row)) for text in VALUES},
            ensure_ascii=row % 2 == 0,
        ).encode()
        for row in range(ROWS)
    ]
    (data / "rows.ndjson").write_bytes(b"\n".join(events))
    texts = [text for text in VALUES if not has_lists(DataType.parse(text))]
    lines = [["entity", "at", *(COLUMN[text] for text in texts)]]
    for row in range(ROWS):
        cells = [value(text, row) for text in texts]
        lines.append([f"e{row}", AT.isoformat(), *("" if v is None else csv_text(v) for v in cells)])
    (data / "rows.csv").write_bytes("\n".join(map(",".join, lines)).encode())
    return events


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A project with rows by every route, on each kind of online store."""
    root = tmp_path_factory.mktemp("types")
    online = {"kind": "sqlite", "path": str(root / "online.db")}
    if request.param == "redis":
        online = {"kind": "redis", "url": request.getfixturevalue("redis_url"), "prefix": f"types{id(root)}"}
    (root / "featurestore.yaml").write_text(
        json.dumps({"project": "types", "online": online, "stream": {"kind": "log"}})
    )
    (root / "specs.yaml").write_text(specs())
    events = write_rows(root / "data")
    with FeatureStore(root) as store:
        store.apply()
        for route in ("parquet", "ndjson", "csv"):
            for report in store.ingest(f"{route}_set"):
                assert report.counts == {}, route
                assert report.rows_written == ROWS
        pushed = store.push("stream_rows", events)
        assert (len(pushed.accepted), pushed.refused) == (ROWS, [])
        assert store.drain()["stream_rows"].get("rejected", 0) == 0
        with running(store) as service:
            yield Filled(store, service)


@pytest.fixture(scope="module")
def trained(filled: Filled) -> dict[str, pl.DataFrame]:
    """The training sets."""
    return {route: filled.training(route) for route in ROUTES}


def ways_out(filled: Filled, route: str) -> dict[str, Any]:
    name = f"all-{route}"
    local = filled.store.get_online_features(name, filled.asked, as_of=NOON)
    with FeatureStore.connect(filled.service.url) as client:
        remote = client.get_online_features(name, filled.asked, as_of=NOON)
    body = {"vector": name, "rows": filled.asked, "as_of": NOON}
    said = filled.service.online(body).json()
    stream = filled.service.online(body, Accept="application/vnd.apache.arrow.stream").body
    return {
        "local": local,
        "remote": remote,
        "arrow": pa.ipc.open_stream(stream).read_all(),
        "local_arrow": local.to_arrow(),
        "json": {c: [row[i] for row in said["rows"]] for i, c in enumerate(said["columns"])},
    }


@pytest.fixture(scope="module")
def served(filled: Filled) -> dict[str, dict[str, Any]]:
    """Every answer of every route."""
    return {route: ways_out(filled, route) for route in ROUTES}


def column(result: Any, name: str) -> list[Any]:
    place = [f.name for f in result.columns].index(name)
    return [row[place] for row in result.rows]


CASES = [
    pytest.param(route, text, id=f"{route}-{text}")
    for route in ROUTES
    for text in VALUES
    if route != "csv" or not has_lists(DataType.parse(text))
]


@pytest.mark.parametrize(("route", "text"), CASES)
def test_a_value_comes_out_of_the_training_set_as_it_went_in(
    trained: dict[str, pl.DataFrame], route: str, text: str
) -> None:
    found = trained[route][COLUMN[text]]
    assert found.dtype == DataType.parse(text).polars()
    expected = [kept(sent(route, text, row)) for row in range(ROWS)]
    assert told(found.to_list()) == told(expected)
    assert trained[route].select(COLUMN[text]).to_arrow().column(0).type is not None


@pytest.mark.parametrize(("route", "text"), CASES)
def test_a_value_is_served_as_it_went_in(served: dict[str, dict[str, Any]], route: str, text: str) -> None:
    name, kind = COLUMN[text], DataType.parse(text)
    ways = served[route]
    natural = [kept(sent(route, text, row)) for row in range(ROWS)]
    rows = told([row_form(item) for item in natural])
    assert told(column(ways["local"], name)) == rows
    assert told(column(ways["remote"], name)) == rows
    assert told([row[name] for row in ways["local"].to_dicts()]) == told(natural)
    for arrow in (ways["arrow"], ways["local_arrow"]):
        assert arrow.schema.field(name).type == kind.arrow()
        assert told(pl.Series(arrow[name]).to_list()) == told(natural)
    assert told(ways["json"][name]) == told([json_out(item) for item in natural])


@pytest.mark.parametrize(("route", "text"), CASES)
def test_an_aggregate_gives_the_value_as_it_went_in(
    trained: dict[str, pl.DataFrame], served: dict[str, dict[str, Any]], route: str, text: str
) -> None:
    name, kind = COLUMN[text], DataType.parse(text)
    natural = [kept(sent(route, text, row)) for row in range(ROWS)]
    for function in (*SINGLE, *LISTING):
        if not FUNCTIONS[function].accepts(kind):
            continue
        feature = f"{name}_{function}_1d"
        expected = [None if v is None else [v] for v in natural] if function in LISTING else natural
        assert told(trained[route][feature].to_list()) == told(expected), feature
        rows = told([row_form(item) for item in expected])
        assert told(column(served[route]["local"], feature)) == rows, feature
        assert told(column(served[route]["remote"], feature)) == rows, feature
        assert told(served[route]["json"][feature]) == told([json_out(item) for item in expected]), feature
    for function in COUNTING:
        if FUNCTIONS[function].accepts(kind):
            counted = [0 if item is None else 1 for item in natural]
            assert trained[route][f"{name}_{function}_1d"].to_list() == counted
            assert column(served[route]["local"], f"{name}_{function}_1d") == counted


@pytest.fixture(scope="module")
def scored(filled: Filled) -> dict[str, Any]:
    """The rows scored as base rows: by a training set, from Python values, and over HTTP."""
    natural = [
        {"entity": f"e{row}", "at": AT} | {COLUMN[text]: value(text, row) for text in VALUES}
        for row in range(ROWS)
    ]
    said = [
        {"entity": f"e{row}", "at": AT.isoformat()}
        | {COLUMN[text]: json_in(sent("stream", text, row)) for text in VALUES}
        for row in range(ROWS)
    ]
    answer = filled.service.online({"vector": "base-stream", "rows": said}).json()
    assert "errors" not in answer
    return {
        "training": filled.store.get_offline_features("base-parquet", typed_rows()).to_polars(),
        "python": filled.store.get_online_features("base-parquet", natural),
        "json": {c: [row[i] for row in answer["rows"]] for i, c in enumerate(answer["columns"])},
    }


@pytest.mark.parametrize("text", VALUES)
def test_a_base_row_brings_its_own_values(scored: dict[str, Any], text: str) -> None:
    name, kind = COLUMN[text], DataType.parse(text)
    natural = [kept(value(text, row)) for row in range(ROWS)]
    by_json = [json_out(kept(sent("stream", text, row))) for row in range(ROWS)]
    features = [name, *([f"{name}_last_1d"] if FUNCTIONS["last"].accepts(kind) else [])]
    for feature in features:
        assert told(scored["training"][feature].to_list()) == told(natural)
        assert told(column(scored["python"], feature)) == told([row_form(item) for item in natural])
        assert told(scored["json"][feature]) == told(by_json)


def test_verify_finds_no_difference(filled: Filled) -> None:
    for vector in [*(f"all-{route}" for route in ROUTES), "base-parquet", "base-stream"]:
        found = filled.store.verify(vector, sample=60)
        assert found.is_equal, found.differences
        assert found.compared


def test_statistics_describe_what_is_a_number_and_count_the_rest(filled: Filled) -> None:
    shown = filled.store.show("parquet_set")["statistics"]
    assert set(TYPES) <= set(shown)


def test_compaction_and_a_new_generation_keep_every_value(
    filled: Filled, trained: dict[str, pl.DataFrame]
) -> None:
    filled.store.compact()
    for route in ROUTES:
        again = filled.training(route)
        assert again.schema == trained[route].schema
        assert told([list(row) for row in again.rows()]) == told([list(row) for row in trained[route].rows()])
    filled.store.materialize("parquet_set")
    after = filled.store.get_online_features("all-parquet", filled.asked, as_of=NOON)
    for text in VALUES:
        expected = [row_form(kept(value(text, row))) for row in range(ROWS)]
        assert told(column(after, COLUMN[text])) == told(expected), text


def test_a_new_version_of_a_stream_set_has_the_rows_of_landing(filled: Filled) -> None:
    root = filled.store.root
    old = "name: stream_set\nentities: [entity]\nsource: stream_rows\n"
    assert old in specs()
    changed = specs().replace(old, old + "steps: [{derive: {one: '1'}}]\n")
    (root / "specs.yaml").write_text(changed)
    with FeatureStore(root) as store:
        store.apply()
        store.drain()
        store.materialize("stream_set")
        asked = pl.DataFrame({"entity": [f"e{row}" for row in range(ROWS)], "event_timestamp": [NOON] * ROWS})
        offline = store.get_offline_features("all-stream", asked).to_polars()
        online = store.get_online_features("all-stream", filled.asked, as_of=NOON)
    assert offline["one"].to_list() == [1] * ROWS
    for text in VALUES:
        expected = [kept(sent("stream", text, row)) for row in range(ROWS)]
        assert told(offline[COLUMN[text]].to_list()) == told(expected), text
        assert told(column(online, COLUMN[text])) == told([row_form(item) for item in expected]), text
