"""Avro messages: what JSON would say, said in Avro, is the same row; what is no message is a dead letter."""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from featurestore.compiler import compile_project
from featurestore.contracts import Record, RecordBatch
from featurestore.errors import RequestError, SpecError
from featurestore.plans import SourcePlan
from featurestore.rows.avro_writing import encode
from featurestore.rows.door import Admitted, admit
from featurestore.rows.json import decode
from featurestore.specs import load_project

NOW = 1_800_000_000_000_000
PROJECT = "project: shop\n"


def nullable(kind: Any) -> list[Any]:
    return ["null", kind]


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


INNER = {
    "type": "record",
    "name": "Inner",
    "fields": [
        {"name": "n", "type": nullable("long")},
        {"name": "day", "type": logical("int", "date")},
        {"name": "cost", "type": logical("bytes", "decimal", precision=9, scale=2)},
        {"name": "when", "type": logical("long", "timestamp-micros")},
    ],
}
FIELDS: dict[str, tuple[str, Any]] = {
    "id": ("string", "string"),
    "at": ("timestamp", logical("long", "timestamp-micros")),
    "millis": ("timestamp", nullable(logical("long", "timestamp-millis"))),
    "local": ("timestamp", nullable(logical("long", "local-timestamp-micros"))),
    "text_time": ("timestamp", nullable("string")),
    "day": ("date", nullable(logical("int", "date"))),
    "small": ("int16", nullable("int")),
    "big": ("int64", nullable("long")),
    "unsigned": ("uint64", nullable("long")),
    "single": ("float32", nullable("float")),
    "double": ("float64", nullable("double")),
    "whole": ("float64", nullable("long")),
    "cost": ("decimal(20,4)", nullable(logical("bytes", "decimal", precision=18, scale=4))),
    "fixed_cost": (
        "decimal(12,2)",
        nullable(
            {"type": "fixed", "name": "F8", "size": 8, "logicalType": "decimal", "precision": 12, "scale": 2}
        ),
    ),
    "flag": ("bool", nullable("boolean")),
    "kind": ("string", nullable({"type": "enum", "name": "Kind", "symbols": ["a", "b"]})),
    "uuid": ("string", nullable(logical("string", "uuid"))),
    "raw": ("binary", nullable("bytes")),
    "tags": ("list<string>", nullable({"type": "array", "items": nullable("string")})),
    "days": ("list<date>", nullable({"type": "array", "items": logical("int", "date")})),
    "point": ("vector<float64, 2>", nullable({"type": "array", "items": "double"})),
    "inner": ("json", nullable(INNER)),
    "counts": ("json", nullable({"type": "map", "values": "long"})),
    "either": ("json", ["null", "long", "string", "boolean"]),
}
SCHEMA = {
    "type": "record",
    "name": "Event",
    "namespace": "shop.events",
    "fields": [{"name": "unread", "type": "string", "default": "x"}]
    + [{"name": name, "type": kind} for name, (_, kind) in FIELDS.items()],
}


def write_project(root: Path, schema: Any, columns: dict[str, str], stream: str = "", more: str = "") -> Path:
    """Write a project with one Avro source."""
    listed = "".join(f"  {name}: {json.dumps(kind)}\n" for name, kind in columns.items())
    (root / "featurestore.yaml").write_text(PROJECT)
    (root / "event.avsc").write_text(json.dumps(schema))
    (root / "events.yaml").write_text(
        f"kind: Source\nname: events\nevent_time: at\n{more}schema:\n{listed}"
        f"stream: {{topic: events, format: avro, schema: event.avsc{stream}}}\n"
    )
    return root


def source_of(root: Path) -> SourcePlan:
    return compile_project(load_project(root)).sources["events"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> SourcePlan:
    """The source of all types."""
    root = tmp_path_factory.mktemp("avro")
    columns = {name: column for name, (column, _) in FIELDS.items()}
    return source_of(write_project(root, SCHEMA, columns, more="timezone: Europe/London\n"))


def admitted(source: SourcePlan, payloads: list[bytes]) -> tuple[Admitted, pl.DataFrame]:
    records = [Record(n, NOW, None, payload) for n, payload in enumerate(payloads)]
    frame, dead = decode(source, RecordBatch("p", records, len(records)))
    return admit(source, frame, now=NOW), dead


def as_json(source: SourcePlan) -> SourcePlan:
    """Return the same source with JSON messages."""
    return replace(source, stream={"topic": "events", "format": "json"})


def moments(naive: bool = False) -> st.SearchStrategy[str]:
    low, high = datetime(1970, 1, 2), datetime(2026, 1, 1)
    zone = "" if naive else "+00:00"
    return st.datetimes(low, high).map(lambda value: value.isoformat() + zone)


def whole_millis(text: str) -> str:
    value = datetime.fromisoformat(text)
    return value.replace(microsecond=value.microsecond // 1000 * 1000).isoformat()


INNERS = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "day": st.dates(date(1, 1, 1)).map(str),
        "cost": st.integers(-(10**9) + 1, 10**9 - 1).map(lambda n: str(Decimal(n).scaleb(-2))),
        "when": moments(),
    }
)
EVENTS = st.fixed_dictionaries(
    {
        "id": st.text(st.characters(exclude_categories=["Cs"])),
        "at": moments(),
        "millis": st.none() | moments().map(whole_millis),
        "local": st.none() | moments(naive=True),
        "text_time": st.none() | moments(),
        "day": st.none() | st.dates().map(str),
        "small": st.none() | st.integers(-(2**15), 2**15 - 1),
        "big": st.none() | st.integers(-(2**63), 2**63 - 1),
        "unsigned": st.none() | st.integers(0, 2**63 - 1),
        "single": st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32),
        "double": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "whole": st.none() | st.integers(-(2**53), 2**53),
        "cost": st.none() | st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: str(Decimal(n).scaleb(-4))),
        "fixed_cost": st.none()
        | st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: str(Decimal(n).scaleb(-2))),
        "flag": st.none() | st.booleans(),
        "kind": st.sampled_from([None, "a", "b"]),
        "uuid": st.none() | st.uuids().map(str),
        "raw": st.none()
        | st.binary(max_size=9).map(lambda data: msgspec.json.decode(msgspec.json.encode(data))),
        "tags": st.none() | st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))),
        "days": st.none() | st.lists(st.dates().map(str)),
        "point": st.none() | st.lists(st.floats(-9, 9), min_size=2, max_size=2),
        "inner": st.none() | INNERS,
        "counts": st.none()
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9)),
        "either": st.none() | st.integers(-9, 9) | st.booleans() | st.sampled_from(["[1]", '{"a": 2}']),
    }
)


@settings(deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_avro_and_json_messages_of_one_event_are_one_row(
    everything: SourcePlan, events: list[dict[str, Any]]
) -> None:
    said = []
    for event in events:
        inner = event["inner"]
        if inner is not None:  # in a document, JSON says what an Avro message's times and decimals become
            inner = {**inner, "cost": Decimal(inner["cost"]), "when": iso(inner["when"])}
        said.append(encoded(event, inner))
    found, dead = admitted(everything, [encode(everything, event) for event in events])
    wanted, dead_json = admitted(as_json(everything), said)
    assert (dead.height, dead_json.height) == (0, 0)
    assert found.rejected.height == wanted.rejected.height == 0
    assert_frame_equal(found.rows, wanted.rows)


def encoded(event: dict[str, Any], inner: Any) -> bytes:
    encoder = msgspec.json.Encoder(decimal_format="number")
    return encoder.encode({**event, "inner": inner})


def iso(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


SMALL = {
    "type": "record",
    "name": "Small",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": logical("long", "timestamp-millis")},
        {"name": "amount", "type": nullable("double")},
    ],
}
COLUMNS = {"id": "string", "at": "timestamp", "amount": "float64"}


def written(schema: Any, row: dict[str, Any]) -> bytes:
    """Return a message as another producer writes it."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), row)
    return buffer.getvalue()


ROW = {"id": "a", "at": datetime(2026, 1, 1, tzinfo=UTC), "amount": 2.5}


def test_what_another_producer_wrote_is_read(tmp_path: Path) -> None:
    source = source_of(write_project(tmp_path, SMALL, COLUMNS))
    found, _ = admitted(source, [written(SMALL, ROW), written(SMALL, {**ROW, "amount": None})])
    assert found.rows.select(list(COLUMNS)).rows() == [
        ("a", ROW["at"], 2.5),
        ("a", ROW["at"], None),
    ]


def test_every_message_that_is_cut_or_longer_is_malformed_and_costs_only_itself(tmp_path: Path) -> None:
    source = source_of(write_project(tmp_path, SMALL, COLUMNS))
    whole = written(SMALL, ROW)
    cut = [whole[:length] for length in range(len(whole))]
    found, dead = admitted(source, [whole, *cut, whole + b"\0", whole])
    assert found.rows.height == 2
    assert dead["code"].to_list() == ["malformed"] * (len(cut) + 1)
    assert dead["payload"].to_list() == [*cut, whole + b"\0"]
    assert "1 bytes follow its end" in dead["message"][-1]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1))
def test_any_bytes_are_a_row_or_a_dead_letter(everything: SourcePlan, payloads: list[bytes]) -> None:
    found, dead = admitted(everything, payloads)
    assert found.rows.height + found.rejected.height + dead.height == len(payloads)


def test_a_registrys_header_is_skipped_where_it_is_declared(tmp_path: Path) -> None:
    source = source_of(write_project(tmp_path, SMALL, COLUMNS, ", options: {framing: confluent}"))
    whole = written(SMALL, ROW)
    found, dead = admitted(source, [b"\0\0\0\0\7" + whole, whole])
    assert found.rows["id"].to_list() == ["a"]
    assert dead["code"].to_list() == ["malformed"]
    assert "framing: confluent" in dead["message"][0]
    assert encode(source, ROW) == b"\0\0\0\0\0" + whole


def test_a_registrys_header_that_is_not_declared_is_told_of(tmp_path: Path) -> None:
    source = source_of(write_project(tmp_path, SMALL, COLUMNS))
    _, dead = admitted(source, [b"\0\0\0\0\7" + written(SMALL, ROW)])
    assert "declare options: {framing: confluent}" in dead["message"][0]


def test_what_an_event_lacks_takes_the_schemas_default_or_null(tmp_path: Path) -> None:
    fields = [*SMALL["fields"], {"name": "kind", "type": "string", "default": "new"}]
    source = source_of(write_project(tmp_path, {**SMALL, "fields": fields}, {**COLUMNS, "kind": "string"}))
    found, _ = admitted(source, [encode(source, {"id": "a", "at": "2026-01-01T00:00:00Z"})])
    assert found.rows.select("amount", "kind").rows() == [(None, "new")]
    with pytest.raises(RequestError, match="id: it is missing"):
        encode(source, {"at": "2026-01-01T00:00:00Z"})


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"amount": "much"}, "amount: 'much' is no double"),
        ({"id": None}, "id: None is no string: it may not be null"),
        ({"id": 7}, "id: 7 is no string"),
        ({"at": "yesterday"}, "at: 'yesterday' is no timestamp-millis"),
    ],
)
def test_an_event_that_the_schema_cannot_hold_is_refused(
    tmp_path: Path, event: dict[str, Any], said: str
) -> None:
    source = source_of(write_project(tmp_path, SMALL, COLUMNS))
    with pytest.raises(RequestError) as error:
        encode(source, {"id": "a", "at": "2026-01-01T00:00:00Z", **event})
    assert said in str(error.value)


def problems(root: Path) -> str:
    with pytest.raises(SpecError) as error:
        source_of(root)
    return str(error.value)


def test_a_column_that_the_schema_lacks_is_named_with_its_line(tmp_path: Path) -> None:
    said = problems(write_project(tmp_path, SMALL, {**COLUMNS, "amonut": "float64"}))
    assert "events.yaml:8: the Avro schema has no field 'amonut'. Did you mean 'amount'?" in said


@pytest.mark.parametrize(
    ("declared", "avro", "said"),
    [
        ("int64", "double", "'x' is int64 here and double in the Avro schema. Declare it as float64."),
        ("string", "long", "'x' is string here and long in the Avro schema. Declare it as int64."),
        ("timestamp", "long", "Say what the integers count: stream: {options: {epoch: ms}}"),
        ("timestamp", logical("long", "local-timestamp-millis"), "Declare the source's timezone:"),
        ("list<string>", {"type": "array", "items": "int"}, "Declare it as list<int32>."),
        (
            "string",
            ["int", "string"],
            "is string here and union of int, string in the Avro schema. Declare it as json.",
        ),
        (
            "decimal(5,2)",
            logical("bytes", "decimal", precision=9, scale=2),
            "'x' is decimal(5,2) here and decimal(9,2) in the Avro schema. Declare it as decimal(9,2).",
        ),
    ],
)
def test_a_column_of_another_type_is_an_error_with_the_fix(
    tmp_path: Path, declared: str, avro: Any, said: str
) -> None:
    schema = {**SMALL, "fields": [*SMALL["fields"], {"name": "x", "type": avro}]}
    found = problems(write_project(tmp_path, schema, {**COLUMNS, "x": declared}))
    assert "events.yaml:8: " in found
    assert said in found


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array", "items": "int"}, "a message must be a record"),
        ({"type": "record", "name": "R"}, "record 'R' has no fields:"),
        ({"type": "wrecord", "name": "R"}, "it is no Avro schema"),
        (
            {"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]},
            "record 'R' holds itself",
        ),
        (
            {
                "type": "record",
                "name": "R",
                "fields": [{"name": "x", "type": {"type": "array", "items": "null"}}],
            },
            "an array of null takes no bytes",
        ),
    ],
)
def test_a_schema_that_cannot_be_is_an_error_at_its_line(tmp_path: Path, schema: Any, said: str) -> None:
    found = problems(write_project(tmp_path, schema, COLUMNS))
    assert "events.yaml:8: stream: schema: " in found
    assert said in found


def test_a_schema_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    root = write_project(tmp_path, SMALL, COLUMNS)
    (root / "event.avsc").unlink()
    assert "The Avro schema 'event.avsc' cannot be read: there is no such file" in problems(root)


def test_integers_with_an_epoch_are_times(tmp_path: Path) -> None:
    schema = {**SMALL, "fields": [SMALL["fields"][0], {"name": "at", "type": "long"}, SMALL["fields"][2]]}
    source = source_of(write_project(tmp_path, schema, COLUMNS, ", options: {epoch: s}"))
    found, _ = admitted(source, [written(schema, {**ROW, "at": 1_700_000_000})])
    assert found.rows["at"].to_list() == [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)]


def test_times_out_of_range_are_bad_values(tmp_path: Path) -> None:
    schema = {**SMALL, "fields": [SMALL["fields"][0], {"name": "at", "type": "long"}, SMALL["fields"][2]]}
    source = source_of(write_project(tmp_path, SMALL, COLUMNS))
    payloads = [written(schema, {**ROW, "at": at}) for at in (2**62, -(2**63), 0)]
    found, _ = admitted(source, payloads)
    assert found.rejected["code"].to_list() == ["bad_value", "bad_value"]
    assert found.rows["at"].to_list() == [datetime(1970, 1, 1, tzinfo=UTC)]


def test_speed_beside_json(tmp_path: Path) -> None:
    """Prints what both take for the same events; bounds nothing but a collapse."""
    source = source_of(write_project(tmp_path, SMALL, COLUMNS))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [{"id": f"e{n}", "at": start + timedelta(seconds=n), "amount": n / 7} for n in range(20_000)]
    rates = {}
    for name, of, payloads in (
        ("avro", source, [written(SMALL, row) for row in rows]),
        ("json", as_json(source), [msgspec.json.encode(row) for row in rows]),
    ):
        begun = time.perf_counter()
        found, _ = admitted(of, payloads)
        rates[name] = len(rows) / (time.perf_counter() - begun)
        assert found.rows.height == len(rows)
    print({name: f"{rate:,.0f} events/s through the door" for name, rate in rates.items()})
    assert math.isfinite(rates["avro"])
    assert rates["avro"] > rates["json"] / 20
