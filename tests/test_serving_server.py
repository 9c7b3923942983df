"""The service as a whole: many connections, its end, its metrics, its documentation."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from served import QUARTER_PAST, Service, make_project, running

from featurestore import FeatureStore
from featurestore.errors import OperatorError
from featurestore_serving import models
from featurestore_serving.documentation import EXAMPLES, OPERATIONS
from featurestore_serving.server import serve
from featurestore_serving.settings import Settings

SCRIPT = """
import sys
from featurestore import FeatureStore
from featurestore_serving.server import serve

if __name__ == "__main__":
    store, workers = FeatureStore(sys.argv[1]), int(sys.argv[2])
    serve(store, port=0, workers=workers, on_ready=lambda url: print(url, flush=True))
    print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with make_project(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store) as started:
        yield started


@pytest.fixture
def process(store: FeatureStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A service in a process of its own, and its `Service`."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(store.root), str(getattr(request, "param", 1))]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        yield started, Service(started.stdout.readline().strip())
    finally:
        started.kill()
        started.communicate()


def test_sixteen_connections_each_get_their_own_answers(service: Service) -> None:
    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for turn in range(10):
            customers = [["C1", "C2", "nobody"][(number + turn + i) % 3] for i in range(number % 4 + 1)]
            body = {
                "features": ["spending.units"],
                "rows": [{"customer": c} for c in customers],
                "as_of": QUARTER_PAST,
            }
            connection.request("POST", "/v1/online-features", json.dumps(body))
            answer = json.loads(connection.getresponse().read())
            expected = {"C1": 7, "C2": -(2**53), "nobody": None}
            assert answer["rows"] == [[expected[c]] for c in customers]
        connection.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))


def test_sigterm_answers_what_is_under_way_and_ends_well(store: FeatureStore, process: Any) -> None:
    running_process, service = process
    marker = b'"drained"'
    with ThreadPoolExecutor(1) as pool:
        event = {"id": "drained", "customer": "D", "at": "2024-11-20T10:00:00Z"}
        pushed = pool.submit(service.call, "POST", "/v1/sources/payments/events?wait=20s", event)
        log = store.root / ".featurestore" / "log"
        while not pushed.done():  # until the event is durable: the request is under way
            if any(marker in file.read_bytes() for file in log.rglob("*") if file.is_file()):
                break
        assert not pushed.done()
        running_process.send_signal(signal.SIGTERM)
        answer = pushed.result(timeout=60)
    assert answer.status == 200
    assert answer.json()["servable"] is True
    assert running_process.wait(timeout=60) == 0
    assert running_process.stdout.read() == "ended\n"
    with pytest.raises(ConnectionRefusedError):
        service.call("GET", "/healthz")


@pytest.mark.parametrize("process", [2], indirect=True)
def test_several_workers_answer_on_one_port_and_count_together(process: Any) -> None:
    running_process, service = process
    for _ in range(20):
        assert service.online({"vector": "spending-all", "rows": [{"customer": "C1"}]}).status == 200
    metrics = service.call("GET", "/metrics").body.decode()
    assert 'featurestore_requests_total{endpoint="/v1/online-features",status="200"} 20.0' in metrics
    running_process.send_signal(signal.SIGTERM)
    assert running_process.wait(timeout=60) == 0


def test_a_port_that_is_taken_is_told(store: FeatureStore, service: Service) -> None:
    with pytest.raises(OperatorError, match="cannot be used"):
        serve(store, port=service.port, stop=threading.Event())


def test_an_idle_connection_does_not_keep_the_service_from_ending(store: FeatureStore) -> None:
    with running(store) as service:
        idle = socket.create_connection(("127.0.0.1", service.port))
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(15) == b"HTTP/1.1 200 OK"
    idle.close()


def test_metrics_count_requests_rows_and_cells_by_status(store: FeatureStore) -> None:
    with running(store) as service:
        rows = [{"customer": "C1"}, {"customer": "nobody"}, {"customer": 5}]
        service.online({"features": ["spending.units", "spending.count_1h"], "rows": rows})
        service.online({"vector": "nosuch", "rows": []})
        service.call("GET", "/nowhere")
        answer = service.call("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    for line in (
        'featurestore_requests_total{endpoint="/v1/online-features",status="200"} 1.0',
        'featurestore_requests_total{endpoint="/v1/online-features",status="404"} 1.0',
        'featurestore_requests_total{endpoint="unmatched",status="404"} 1.0',
        'featurestore_request_seconds_count{endpoint="/v1/online-features"} 2.0',
        "featurestore_rows_served_total 3.0",
        'featurestore_cells_served_total{status="PRESENT"} 3.0',
        'featurestore_cells_served_total{status="NOT_FOUND"} 1.0',
        'featurestore_cells_served_total{status="INVALID"} 2.0',
        'featurestore_cells_served_total{status="NULL_VALUE"} 0.0',
        "featurestore_up 1.0",
    ):
        assert line in lines
    assert any(re.match(r'featurestore_\w+\{.*feature_set="spending".*\} ', line) for line in lines)


def test_what_there_is_can_be_listed(service: Service) -> None:
    sets = service.call("GET", "/v1/feature-sets").json()["feature_sets"]
    vectors = service.call("GET", "/v1/feature-vectors").json()["feature_vectors"]
    assert [item["name"] for item in sets] == ["spending"]
    assert sorted(item["name"] for item in vectors) == ["scored", "spending-all"]


def test_the_openapi_document_has_every_path_and_resolves(service: Service) -> None:
    document = service.call("GET", "/openapi.json").json()
    assert set(document["paths"]) == set(OPERATIONS)
    schemas = document["components"]["schemas"]
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert found <= set(schemas)
    assert {body.__name__ for body in models.BODIES} <= set(schemas)
    assert b"swagger" in service.call("GET", "/docs").body


def test_the_documented_examples_are_what_the_models_read() -> None:
    """Each example is decoded by the type that decodes, or documents, such a body."""
    for name, examples in EXAMPLES.items():
        for example in examples:
            made = msgspec.convert(example, getattr(models, name), strict=True)
            assert msgspec.to_builtins(made).items() >= example.items()


def test_a_request_loads_no_frame_library(store: FeatureStore) -> None:
    """Resolving, compiling, reading and encoding: all that the first request of a process does."""
    script = """
import sys, threading, urllib.request
from featurestore import FeatureStore
from featurestore_serving.server import serve

stop = threading.Event()

def ask(url):
    body = b'{"vector": "spending-all", "rows": [{"customer": "C1"}]}'
    def call():
        print(urllib.request.urlopen(url + "/v1/online-features", body).status)
        stop.set()
    threading.Thread(target=call).start()

serve(FeatureStore(sys.argv[1]), port=0, on_ready=ask, stop=stop)
print({name.partition(".")[0] for name in sys.modules} & {"polars", "duckdb", "deltalake", "pyarrow"})
"""
    command = [sys.executable, "-c", script, str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["200", "set()"], done.stderr


def test_settings_come_from_the_environment() -> None:
    settings = Settings.read({"FEATURESTORE_TOKEN": "t", "FEATURESTORE_MAX_ROWS": "7"})
    assert settings == Settings(token="t", max_rows=7)
    assert Settings.read({}) == Settings()
    with pytest.raises(OperatorError, match=r"FEATURESTORE_MAX_ROWS: '-1' is no positive whole number"):
        Settings.read({"FEATURESTORE_MAX_ROWS": "-1"})
