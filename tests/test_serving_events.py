"""`POST /v1/sources/{name}/events`: what is accepted is durable, what is refused says why."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from served import PROJECT, SMALL, TEN, Service, make_project, running

from featurestore import FeatureStore
from featurestore.errors import PushInterrupted, RequestError
from featurestore.events import payloads
from featurestore_serving.answers import ARROW
from featurestore_serving.arrow_bodies import read_table
from featurestore_serving.bodies import events_of
from featurestore_serving.failures import TooLarge

PATH = "/v1/sources/payments/events"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with make_project(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store, settings=SMALL) as started:
        yield started


def event(number: int, customer: str = "P") -> dict[str, Any]:
    return {"id": f"e{number}", "customer": customer, "at": "2024-11-20T10:00:00Z", "units": number}


def test_with_wait_an_event_is_servable_when_the_answer_comes(service: Service) -> None:
    answer = service.call("POST", PATH + "?wait=20s", event(11, "waited"))
    assert answer.status == 200
    assert answer.json()["servable"] is True
    assert answer.json()["refused"] == []
    body = {"features": ["spending.units"], "rows": [{"customer": "waited"}]}
    assert service.online(body).json()["rows"] == [[11]]


@pytest.mark.parametrize("count", [1, 3])
def test_an_array_and_lines_are_one_event_each(service: Service, count: int) -> None:
    events = [event(100 + i) for i in range(count)]
    lines = b"\n".join(json.dumps(e).encode() for e in events) + b"\n"
    for body in (events, lines):
        answer = service.call("POST", PATH, body)
        assert answer.status == 200
        places = answer.json()["accepted"]
        assert [p["sequence"] for p in places] == list(
            range(places[0]["sequence"], places[0]["sequence"] + count)
        )
        assert answer.json()["servable"] is None


def test_some_that_are_refused_make_207_with_their_index(service: Service) -> None:
    answer = service.call("POST", PATH, [event(1), {"id": "x", "units": "many"}, event(2), 5])
    assert answer.status == 207
    assert len(answer.json()["accepted"]) == 2
    assert [(r["index"], r["code"]) for r in answer.json()["refused"]] == [(1, "bad_type"), (3, "malformed")]


def test_all_that_are_refused_make_422_with_an_error(service: Service) -> None:
    answer = service.call("POST", PATH, {"id": "x"})
    assert answer.status == 422
    assert answer.json()["error"]["code"] == "refused"
    assert answer.json()["accepted"] == []
    assert [r["code"] for r in answer.json()["refused"]] == ["null_event_time"]


def test_a_malformed_line_is_refused_alone(service: Service) -> None:
    body = json.dumps(event(3)).encode() + b'\n{"id": \n' + json.dumps(event(4)).encode()
    answer = service.call("POST", PATH, body, Content_Type="application/x-ndjson")
    assert answer.status == 207
    assert [(r["index"], r["code"]) for r in answer.json()["refused"]] == [(1, "malformed")]


def test_the_rows_of_an_arrow_stream_are_events(service: Service) -> None:
    rows = [{**event(21, "arrow"), "at": TEN}, {**event(22, "arrow"), "at": None}]
    body = io.BytesIO()
    pl.DataFrame(rows).write_ipc_stream(body)
    answer = service.call("POST", PATH + "?wait=20s", body.getvalue(), Content_Type=ARROW)
    assert answer.status == 207
    assert [item["index"] for item in answer.json()["accepted"]] == [0]
    assert [(r["index"], r["code"]) for r in answer.json()["refused"]] == [(1, "null_event_time")]
    assert answer.json()["servable"] is True
    body_ = {"features": ["spending.units"], "rows": [{"customer": "arrow"}], "as_of": TEN.isoformat()}
    assert service.online(body_).json()["rows"] == [[21]]


@pytest.mark.parametrize("body", [b"", b"no arrow", bytes(64)])
def test_what_is_no_arrow_stream_is_refused_as_a_whole(service: Service, body: bytes) -> None:
    answer = service.call("POST", PATH, body, Content_Type=ARROW)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "no Arrow IPC stream" in answer.json()["error"]["message"]


def arrow(table: pa.Table, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as out:
        out.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("column", [pa.nulls(1_000_000), pa.array(["x" * 1_000_000])], ids=["nulls", "text"])
def test_a_few_bytes_that_stand_for_many_are_too_large(
    service: Service, column: pa.Array, compression: str | None
) -> None:
    answer = service.call("POST", PATH, arrow(pa.table({"id": column}), compression), Content_Type=ARROW)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_table_of_its_limit_is_read_whatever_compressed_it(compression: str | None) -> None:
    table = pa.table({"id": ["x" * 1000] * 10, "kind": pa.array(["a", "b"] * 5).dictionary_encode()})
    assert read_table(arrow(table, compression), 10_400).equals(table)
    with pytest.raises(TooLarge):
        read_table(arrow(table, compression), 10_000)


def test_offsets_that_lie_are_found_before_anything_follows_them() -> None:
    body = arrow(pa.table({"id": ["abc", "de"]}))
    offsets = struct.pack("<iii", 0, 3, 5)
    assert body.count(offsets) == 1
    with pytest.raises(RequestError, match="no Arrow IPC stream"):
        read_table(body.replace(offsets, struct.pack("<iii", 0, 3, 2**30)), 10_000)


@pytest.mark.parametrize(
    "table",
    [
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"]),
        pa.table({"id": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}),
        pa.table({"id": pa.RunEndEncodedArray.from_arrays([2], ["a"])}),
    ],
    ids=["a name twice", "intervals", "runs"],
)
def test_columns_that_are_no_events_are_refused(service: Service, table: pa.Table) -> None:
    answer = service.call("POST", PATH, arrow(table), Content_Type=ARROW)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "columns cannot be read" in answer.json()["error"]["message"]


DEEP = b"[" * 50_000


@pytest.mark.parametrize(
    ("body", "status"), [(DEEP, 400), (b'{"id":' + DEEP, 422), (b'{"id": "e"}\n{"id":' + DEEP, 422)]
)
def test_what_is_nested_too_deeply_is_refused(store: FeatureStore, body: bytes, status: int) -> None:
    with running(store) as roomy:  # its limits are the usual ones
        answer = roomy.call("POST", PATH, body)
    assert answer.status == status
    assert b"nested too deeply" in answer.body


def test_many_lines_are_pushed_in_order_and_each_has_its_place(tmp_path: Path) -> None:
    lines = b"\n".join(b"{" if n % 5_000 == 7 else json.dumps(event(n)).encode() for n in range(12_000))
    with make_project(tmp_path) as store, running(store) as service:
        answer = service.call("POST", PATH, lines, Content_Type="application/x-ndjson")
        assert answer.status == 207
        assert [r["index"] for r in answer.json()["refused"]] == [7, 5_007, 10_007]
        accepted = answer.json()["accepted"]
        assert [item["sequence"] for item in accepted] == list(range(11_997))
        assert [item["index"] for item in accepted] == [n for n in range(12_000) if n % 5_000 != 7]


def test_a_push_that_ends_midway_is_503_and_says_what_is_durable(tmp_path: Path) -> None:
    """One of two partitions is gone; the client raises what the service was told."""
    with make_project(tmp_path) as store:
        specs = (tmp_path / "specs.yaml").read_text()
        two = "{topic: payments, options: {partitions: 2}}"
        (tmp_path / "specs.yaml").write_text(specs.replace("{topic: payments}", two))
        store.apply()
        store.push("payments", [event(0), event(1)])
        with running(store) as service:
            (tmp_path / ".featurestore" / "log" / "payments" / "1").rename(tmp_path / "gone")
            answer = service.call("POST", PATH, [event(2), event(3), event(4), {}])
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            told = answer.json()
            assert told["error"]["code"] == "push_interrupted"
            durable = [item["index"] for item in told["accepted"]]
            assert sorted([*durable, *told["unacknowledged"]]) == [0, 1, 2]
            assert ([r["index"] for r in told["refused"]], told["unsent_from"]) == ([3], 3)
            with (
                FeatureStore.connect(service.url) as remote,
                pytest.raises(PushInterrupted) as caught,
            ):
                remote.push("payments", [{"amount": float("nan")}, event(5), event(6)])
            durable = [item["index"] for item in caught.value.report.accepted]
            assert sorted([*durable, *caught.value.unacknowledged]) == [1, 2]
            assert [r["index"] for r in caught.value.report.refused] == [0]
            assert caught.value.unsent_from == 3


def test_a_broker_that_does_not_answer_is_503_and_nothing_was_sent(tmp_path: Path) -> None:
    config = PROJECT.replace(
        "{kind: log, path: .featurestore/log}",
        "{kind: kafka, brokers: '127.0.0.1:9', unavailable_after: 1s}",
    )
    with make_project(tmp_path, config) as store, running(store) as service:
        answer = service.call("POST", PATH, event(1))
        assert (answer.status, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert "accepted" not in answer.json()


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "said"),
    [
        ("/v1/sources/payment/events", b"{}", 404, "unknown_source", "payment"),
        (PATH, b"", 400, "invalid_request", "no event"),
        (PATH, b" \n ", 400, "invalid_request", "no event"),
        (PATH, b"[{]", 400, "invalid_request", "no JSON"),
        (PATH + "?wait=soon", b"{}", 400, "invalid_request", "'soon' is no duration"),
        (PATH + "?wait=1h", b"{}", 400, "invalid_request", "longer than 30s"),
        (PATH, b"x" * 2001, 413, "too_large", "2000 bytes"),
    ],
)
def test_a_push_that_cannot_be_taken(
    service: Service, path: str, body: bytes, status: int, code: str, said: str
) -> None:
    answer = service.call("POST", path, body)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"a": 1}', "", [b'{"a": 1}']),
        (b'{"a":\n 1}', "application/json", [b'{"a":\n 1}']),
        (b'[{"a": 1} , 2]', "application/json", [b'{"a": 1}', b"2"]),
        (b"[]", "application/json", []),
        (b'{"a": 1}\n{"a": 2}', "", [b'{"a": 1}', b'{"a": 2}']),
        (b'{"a": 1}\r\n\r\n{"a"\r\n', "application/x-ndjson; charset=utf-8", [b'{"a": 1}', b'{"a"']),
        (b"[1]\n[2]", "application/x-ndjson", [b"[1]", b"[2]"]),
    ],
)
def test_events_are_told_apart(body: bytes, content_type: str, expected: list[bytes]) -> None:
    assert list(payloads(events_of(body, content_type, 2000))) == expected
