"""`FeatureStore.connect`: a served store answers as the one at hand, and fails as it does."""

from __future__ import annotations

import http.server
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from served import QUARTER_PAST, QUARTER_TO, SMALL, Service, make_project, running

from featurestore import FeatureStore
from featurestore.client import RemoteFeatureStore
from featurestore.errors import (
    HistoryError,
    OperatorError,
    RequestError,
    SpecError,
    StoreUnavailable,
    UnknownName,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with make_project(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store, settings=SMALL) as started:
        yield started


@pytest.fixture
def remote(service: Service) -> Iterator[RemoteFeatureStore]:
    with FeatureStore.connect(service.url) as connected:
        yield connected


def test_a_result_is_the_one_of_the_store_at_hand(store: FeatureStore, remote: RemoteFeatureStore) -> None:
    rows = [{"customer": "C1"}, {"customer": "C2"}, {"customer": "nobody"}, {"customer": 5}]
    for as_of in (QUARTER_PAST, [QUARTER_TO] * 4, datetime(2024, 11, 20, 10, 45, tzinfo=UTC)):
        here = store.get_online_features("spending-all", rows, as_of=as_of)
        there = remote.get_online_features("spending-all", rows, as_of=as_of)
        assert repr(there.rows) == repr(here.rows)  # NaN equals itself in text only
        assert (there.vector, there.columns, there.status) == (here.vector, here.columns, here.status)
        assert (there.as_of, there.errors) == (here.as_of, here.errors)
        assert repr(there.to_dicts()) == repr(here.to_dicts())
        assert there.to_arrow().equals(here.to_arrow()) or math.isnan(here.rows[0][0])
    assert remote.get_online_features(["spending.units"], rows[:1], QUARTER_PAST).rows == [[7]]


def test_no_rows_are_a_result_without_rows(remote: RemoteFeatureStore) -> None:
    result = remote.get_online_features("spending-all", [])
    assert (result.rows, result.status, len(result.columns)) == ([], [], 10)


def test_events_are_pushed_and_reported(remote: RemoteFeatureStore) -> None:
    event = {"id": "r1", "customer": "remote", "at": datetime(2024, 11, 20, 10, tzinfo=UTC), "units": 3}
    report = remote.push("payments", [event, {"id": "x"}, b'{"id":\n3}', b""], wait=20.0)
    assert len(report.accepted) == 1
    assert [(r["index"], r["code"]) for r in report.refused] == [
        (1, "null_event_time"),
        (2, "bad_type"),
        (3, "malformed"),
    ]
    assert report.servable is True
    assert remote.get_online_features(["spending.units"], [{"customer": "remote"}]).rows == [[3]]
    refused = remote.push("payments", [{"id": "x"}])
    assert (refused.accepted, len(refused.refused), refused.servable) == ([], 1, None)
    assert remote.push("payments", []).accepted == []


def test_a_frame_and_more_events_than_one_request_takes_are_one_push(tmp_path: Path) -> None:
    count = 12_000
    events = pl.DataFrame(
        {"id": [f"f{n}" for n in range(count)], "customer": "frame", "at": QUARTER_TO, "units": range(count)}
    ).with_columns(at=pl.when(pl.col("units") == 7_007).then(None).otherwise("at"))
    with (
        make_project(tmp_path) as store,
        running(store) as service,
        FeatureStore.connect(service.url) as remote,
    ):
        report = remote.push("payments", events, wait=30.0)
        assert report.servable is True
        assert [r["index"] for r in report.refused] == [7_007]
        assert [item["index"] for item in report.accepted] == [n for n in range(count) if n != 7_007]
        assert [item["sequence"] for item in report.accepted] == list(range(count - 1))
        asked = remote.get_online_features(["spending.count_1h"], [{"customer": "frame"}], QUARTER_TO)
        assert asked.rows == [[count - 1]]


def test_errors_are_of_the_class_that_they_were_there(remote: RemoteFeatureStore) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'spending-all'") as unknown:
        remote.get_online_features("spending-al", [])
    assert unknown.value.code == "unknown_vector"
    with pytest.raises(UnknownName, match="Did you mean 'payments'"):
        remote.push("payment", [{}])
    with pytest.raises(HistoryError):
        remote.get_online_features("spending-all", [{"customer": "C1"}], as_of="9000-01-01T00:00:00Z")
    with pytest.raises(SpecError, match="Did you mean 'units'"):
        remote.get_online_features(["spending.unit"], [])
    with pytest.raises(RequestError, match="6 rows are more than 5"):
        remote.get_online_features("spending-all", [{"customer": "C1"}] * 6)
    with pytest.raises(RequestError, match="'soon' is no instant"):
        remote.get_online_features("spending-all", [], as_of="soon")


def test_the_token_is_sent(store: FeatureStore) -> None:
    with running(store, settings=replace(SMALL, token="s3cret")) as service:
        with FeatureStore.connect(service.url, token="s3cret") as remote:
            assert [item["name"] for item in remote.feature_sets()] == ["spending"]
        with (
            FeatureStore.connect(service.url) as remote,
            pytest.raises(RequestError, match="no token") as error,
        ):
            remote.feature_vectors()
        assert error.value.code == "unauthorized"


def test_a_service_that_comes_back_is_found_again(store: FeatureStore) -> None:
    with running(store) as service:
        remote = RemoteFeatureStore(service.url)
        assert remote.get_online_features(["spending.units"], []).rows == []
    with pytest.raises(StoreUnavailable, match="does not answer"):
        remote.get_online_features(["spending.units"], [])
    remote.close()


def test_a_connection_is_kept_and_replaced_when_the_service_closed_it() -> None:
    """The server closes after each answer: the next request goes over a new connection, sent once."""
    seen: list[int] = []

    class Closing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append(self.client_address[1])
            body = b'{"feature_sets": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = len(seen) == 2  # without saying so

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with RemoteFeatureStore(f"127.0.0.1:{server.server_port}") as remote:
            for _ in range(2):
                assert remote.feature_sets() == []
            remote._local.connection.sock.recv(1)  # until the end has arrived
            assert remote.feature_sets() == []
        server.shutdown()
        thread.join()
    assert seen[0] == seen[1] != seen[2]


def test_what_is_no_feature_store_is_told() -> None:
    with pytest.raises(RequestError, match="no address"):
        RemoteFeatureStore("ftp://somewhere")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with (
            RemoteFeatureStore(f"http://127.0.0.1:{server.server_port}/prefix") as remote,
            pytest.raises(OperatorError, match="no error of a feature store"),
        ):
            remote.feature_sets()
        thread.join()
