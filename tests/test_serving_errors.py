"""What the service refuses: the status, and an error with what, where and what to do."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from conftest import StartServer
from served import PROJECT, SMALL, Service, make_project, running

from featurestore import FeatureStore, errors
from featurestore.errors import FeatureStoreError
from featurestore_serving import failures

ROWS = [{"customer": "C1"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with make_project(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store, settings=SMALL) as started:
        yield started


@pytest.mark.parametrize(
    ("body", "where", "said"),
    [
        (b"", None, "no JSON"),
        (b"{", None, "no JSON"),
        (b"\xff\xfe", None, "no JSON"),
        (b'"text"', "$", "Expected `object`, got `str`"),
        ({"rows": ROWS}, "$.vector", "either a vector or a list of features"),
        ({"vector": "v", "features": ["a.b"], "rows": ROWS}, "$.vector", "either a vector"),
        ({"features": [], "rows": ROWS}, "$.features", "empty"),
        ({"vector": "spending-all"}, "$", "missing required field `rows`"),
        ({"vector": "spending-all", "rows": {}}, "$.rows", "Expected `array`, got `object`"),
        ({"vector": "spending-all", "rows": ["C1"]}, "$.rows[0]", "Expected `object`, got `str`"),
        ({"vector": 5, "rows": ROWS}, "$.vector", "Expected `str | null`, got `int`"),
        ({"vector": "spending-all", "rows": ROWS, "as_of": 5}, "$.as_of", "got `int`"),
        ({"vector": "spending-all", "rows": ROWS, "as_of": "soon"}, "$.as_of", "'soon' is no instant"),
        ({"vector": "spending-all", "rows": ROWS, "as_of": "2024-11-20T10:00:00"}, "$.as_of", "time zone"),
        ({"vector": "spending-all", "rows": ROWS, "as_of": ["x"]}, "$.as_of[0]", "'x' is no instant"),
        ({"vector": "spending-all", "rows": ROWS, "as_of": []}, None, "0 instants for 1 rows"),
    ],
)
def test_a_bad_body_is_told_with_its_place(service: Service, body: Any, where: str | None, said: str) -> None:
    answer = service.online(body)
    error = answer.json()["error"]
    assert answer.status == 400, error
    assert error["code"] == "invalid_request"
    assert error["where"] == where
    assert said in error["message"]
    assert set(error) == {"code", "message", "where", "hint"}


def test_an_unknown_field_comes_with_the_nearest_one(service: Service) -> None:
    answer = service.online({"vector": "spending-all", "row": ROWS})
    assert answer.status == 400
    assert answer.json()["error"]["message"] == "There is no field 'row'."
    assert answer.json()["error"]["hint"] == "Did you mean 'rows'?"


@pytest.mark.parametrize(
    ("named", "code", "where", "hint"),
    [
        ({"vector": "spending-al"}, "unknown_vector", "$.vector", "Did you mean 'spending-all'?"),
        ({"vector": "spending-all@nosuch"}, "unknown_vector", "$.vector", None),
        ({"features": ["spendin.units"]}, "unknown_feature_set", "$.features", "Did you mean 'spending'?"),
    ],
)
def test_an_unknown_name_is_404_with_the_nearest_one(
    service: Service, named: dict[str, Any], code: str, where: str, hint: str | None
) -> None:
    answer = service.online({**named, "rows": ROWS})
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["where"]) == (404, code, where)
    assert error["hint"] == hint if hint else error["hint"]


def test_an_unknown_feature_is_400_with_the_nearest_one(service: Service) -> None:
    answer = service.online({"features": ["spending.unit"], "rows": ROWS})
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "invalid_spec"
    assert "Did you mean 'units'?" in answer.body.decode()


def test_an_instant_to_come_is_422(service: Service) -> None:
    answer = service.online({"vector": "spending-all", "rows": ROWS, "as_of": "9000-01-01T00:00:00Z"})
    assert answer.status == 422
    assert answer.json()["error"]["code"] == "outside_history"


def test_too_many_rows_or_bytes_are_413(service: Service) -> None:
    rows = service.online({"vector": "spending-all", "rows": ROWS * 6})
    assert (rows.status, rows.json()["error"]["code"], rows.json()["error"]["where"]) == (
        413,
        "too_large",
        "$.rows",
    )
    body = service.online({"vector": "spending-all", "rows": [{"customer": "C" * 2000}]})
    assert (body.status, body.json()["error"]["code"]) == (413, "too_large")


def test_a_body_without_a_length_is_limited_too(service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    chunks = (b"x" * 500 for _ in range(5))
    connection.request("POST", "/v1/online-features", chunks, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    answer.read()
    connection.close()


def test_paths_and_methods_that_are_not_served(service: Service) -> None:
    path = service.call("GET", "/v1/feature-set")
    assert path.status == 404
    assert path.json()["error"] == {
        "code": "unknown_path",
        "message": "There is no path '/v1/feature-set'.",
        "where": "/v1/feature-set",
        "hint": "Did you mean '/v1/feature-sets'?",
    }
    method = service.call("GET", "/v1/online-features")
    assert (method.status, method.headers["allow"]) == (405, "POST")
    assert method.json()["error"]["code"] == "method_not_allowed"


def test_a_token_guards_what_is_under_v1(store: FeatureStore) -> None:
    with running(store, settings=replace(SMALL, token="s3cret")) as service:
        for sent in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}):
            answer = service.online({"vector": "spending-all", "rows": ROWS}, **sent)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"]["code"] == "unauthorized"
        assert service.call("GET", "/v1/feature-sets").status == 401
        right = {"Authorization": "Bearer s3cret"}
        assert service.online({"vector": "spending-all", "rows": ROWS}, **right).status == 200
        assert service.call("GET", "/healthz").status == 200


def subclasses(kind: type[FeatureStoreError]) -> Iterator[type[FeatureStoreError]]:
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


def test_the_table_gives_every_error_its_status() -> None:
    expected = {
        errors.SpecError: 400,
        errors.RequestError: 400,
        errors.UnknownName: 404,
        errors.HistoryError: 422,
        errors.OperatorError: 500,
        errors.StoreUnavailable: 503,
    }
    assert {kind: failures.status_of(kind("x")) for kind in expected} == expected
    assert failures.status_of(errors.MissingExtra("x", "y")) == 501
    covered = [kind for kind, _ in failures.STATUS]
    assert all(issubclass(kind, tuple(covered)) for kind in subclasses(FeatureStoreError))
    first = {kind: next(k for k in covered if issubclass(kind, k)) for kind in covered}
    assert all(kind is found for kind, found in first.items()), "a class stands behind its base"


@pytest.mark.redis
def test_a_store_that_does_not_answer_is_503_until_it_does(
    tmp_path_factory: pytest.TempPathFactory, start_server: StartServer
) -> None:
    server = start_server(appendonly=True, arguments=["--appendfsync", "always"])
    config = PROJECT.replace(
        "{kind: sqlite, path: .featurestore/online.db}", f'{{kind: redis, url: "{server.url}"}}'
    )
    body = {"vector": "spending-all", "rows": ROWS}
    with make_project(tmp_path_factory.mktemp("shop"), config) as store, running(store) as service:
        assert service.online(body).status == 200
        assert service.call("GET", "/readyz").json() == {"status": "ready"}
        server.kill()
        for answer in (service.online(body), service.call("GET", "/readyz")):
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["code"] == "unavailable"
            assert "Redis does not answer" in answer.json()["error"]["message"]
        assert service.call("GET", "/healthz").status == 200
        server.start()
        assert service.online(body).status == 200
        assert service.call("GET", "/readyz").status == 200


@pytest.mark.redis
def test_a_store_that_comes_back_empty_is_503_and_never_an_empty_window(
    tmp_path_factory: pytest.TempPathFactory, start_server: StartServer
) -> None:
    server = start_server()
    config = PROJECT.replace(
        "{kind: sqlite, path: .featurestore/online.db}", f'{{kind: redis, url: "{server.url}"}}'
    )
    body = {"vector": "spending-all", "rows": ROWS}
    with make_project(tmp_path_factory.mktemp("shop"), config) as store, running(store) as service:
        before = service.online(body)
        assert before.status == 200
        server.kill()
        server.start()
        answer = service.online(body)
        assert answer.status == 503
        assert "it lost its data" in answer.json()["error"]["message"]
        store.materialize("spending")
        after = service.online(body)
        assert (after.status, after.json()["rows"]) == (200, before.json()["rows"])
    server.kill()


def test_a_mistake_of_ours_shows_nothing_of_the_inside(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Mistaken(FeatureStore):
        def describe_sets(self) -> list[dict[str, Any]]:
            return [{"name": 1 / 0}]

    with Mistaken(store.root) as mistaken, running(mistaken) as service:
        answer = service.call("GET", "/v1/feature-sets")
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["code"] == "internal"
    assert b"division" not in answer.body
    assert b"Traceback" not in answer.body
    assert "ZeroDivisionError" in caplog.text
