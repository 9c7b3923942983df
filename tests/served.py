"""What the tests of the service share: a small project with rows, its service on a real socket, and calls."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from featurestore import FeatureStore
from featurestore_serving.backend import Backend
from featurestore_serving.server import serve
from featurestore_serving.settings import Settings

PROJECT = """
project: shop
registry: sqlite:///.featurestore/registry.db
offline: {kind: delta, path: .featurestore/offline}
online: {kind: sqlite, path: .featurestore/online.db}
stream: {kind: log, path: .featurestore/log}
"""
SPECS = """
kind: Entity
name: customer
type: string
---
kind: Source
name: payments
event_time: at
event_id: id
schema:
  id: string
  customer: string
  at: timestamp
  amount: float64
  units: int64
  price: decimal(10,2)
  day: date
  seen: timestamp
  raw: binary
  codes: list<int64>
  days: list<date>
stream: {topic: payments}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
history: all
aggregations:
  - {column: amount, functions: [sum], windows: [1h]}
  - {functions: [count], windows: [1h]}
---
kind: FeatureVector
name: spending-all
features: [spending.*]
---
kind: FeatureVector
name: scored
base: spending
features: [spending.amount, spending.count_1h]
inputs: {channel: string}
"""
SOURCE = ["id", "customer", "at", "amount", "units", "price", "day", "seen", "raw", "codes", "days"]

TEN = datetime(2024, 11, 20, 10, tzinfo=UTC)
ROWS = [
    # C1's first payment has a value of every kind, its second one what JSON cannot say.
    ["a", "C1", TEN, 1.5, 7, "1.20", date(2024, 1, 2), TEN, b"\x00\xff", [1, None], [date(2024, 1, 2)]],
    [
        "b",
        "C1",
        TEN.replace(minute=30),
        float("nan"),
        2**60,
        None,
        None,
        None,
        None,
        [2**60, 2**53],
        [None],
    ],
    ["c", "C2", TEN, float("inf"), -(2**53), "-0.05", date(1969, 12, 31), None, b"", [], []],
]
QUARTER_PAST = "2024-11-20T10:15:00.000000Z"
QUARTER_TO = "2024-11-20T10:45:00.000000Z"


def make_project(root: Path, config: str = PROJECT) -> FeatureStore:
    """Write, apply and fill the project; return it, open."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "featurestore.yaml").write_text(config)
    (root / "specs.yaml").write_text(SPECS)
    store = FeatureStore(root)
    store.apply()
    store.ingest("spending", pl.DataFrame(ROWS, schema=SOURCE, orient="row", strict=False))
    return store


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)


class Service:
    """A running service, called over its socket with a connection per call."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Return the answer to a request; a body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method, path, data, {name.replace("_", "-"): text for name, text in headers.items()}
            )
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def online(self, body: Any, **headers: str) -> Answer:
        """Return the answer of `/v1/online-features`."""
        return self.call("POST", "/v1/online-features", body, **headers)


@contextmanager
def running(backend: Backend, **options: Any) -> Iterator[Service]:
    """Serve the backend from a thread on a free port, until the block ends."""
    stop = threading.Event()
    told: queue.Queue[str | BaseException] = queue.Queue()

    def run() -> None:
        try:
            serve(backend, port=0, stop=stop, on_ready=told.put, **options)
        except BaseException as error:
            told.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        url = told.get(timeout=60)
        if isinstance(url, BaseException):
            raise url
        yield Service(url)
    finally:
        stop.set()
        thread.join()


SMALL = Settings(max_body_bytes=2000, max_rows=5, max_wait_seconds=30.0)
