"""What the stream tests share: a project on disk, its topics read back, and the check against the oracle."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import oracle
import shop
from parity import check_cells, write_project
from shop import Judge, Row

from featurestore import FeatureStore, plans
from featurestore.errors import StoreUnavailable

WAIT_SECONDS = 60.0


def make_project(root: Path, online: Mapping[str, Any], stream: Mapping[str, Any] | None = None) -> Path:
    """Write the shop's project; return its folder."""
    config = {"project": "shop", "online": dict(online), "stream": dict(stream or {"kind": "log"})}
    specs = shop.SPECS
    if config["stream"]["kind"] == "log":
        specs = specs.replace("{topic: payments}", "{topic: payments, options: {partitions: 3}}")
    return write_project(root, specs, json.dumps(config))  # YAML is a superset of JSON


def send(store: FeatureStore, source: str, rows: Sequence[Row]) -> None:
    """Append rows to a source's topic."""
    topic = store.environment.stream(store.catalog.source(source))
    topic.append([(None, shop.message(source, row)) for row in rows])


def sent(
    store: FeatureStore, source: str, is_row: Callable[[bytes | None], bool] = lambda value: True
) -> list[Row]:
    """Return all rows of a source's topic, with the times at which the broker took them.

    Messages that are no rows (by `is_row`) are passed over.
    """
    topic = store.environment.stream(store.catalog.source(source))
    rows = []
    for partition in topic.partitions():
        reader = topic.reader(partition, None)
        reached, end = 0, reader.end()
        while reached < end:
            batch = reader.poll(10_000, 1.0)
            if batch is not None:
                reached = batch.next_sequence
                for record in batch.records:
                    if not is_row(record.value):
                        continue
                    assert record.value is not None
                    rows.append(shop.said(source, record.value) | {"__ingest_time": record.time})
        reader.close()
    return rows


def lag(store: FeatureStore, *, offline: bool = True) -> int:
    """Return how many records some shard online (or some table) lacks, summed over tables and partitions."""
    from featurestore.online.writer import OnlineWriter

    behind = 0
    for plan in store.catalog.live_sets():
        topic = store.environment.stream(store.catalog.source(plan.source.name))
        for partition, end in topic.ends().items():
            if plan.online:
                store.catalog.forget()
                writer = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
                behind += end - writer.lowest(partition)
            if offline:
                table = store.environment.rows_table(plan)
                behind += end - table.position(table.snapshot(), partition)
    return behind


def await_no_lag(store: FeatureStore, seconds: float = WAIT_SECONDS, *, offline: bool = True) -> None:
    """Return once streams have applied (and committed) all that there is. A store may be away meanwhile."""
    deadline = time.monotonic() + seconds
    behind: object = None
    while True:
        try:
            behind = lag(store, offline=offline)
        except StoreUnavailable as error:
            behind = error
        if behind == 0:
            return
        assert time.monotonic() < deadline, f"the stream is behind: {behind}"
        time.sleep(0.1)


class Stream:
    """A stream in a thread of its own, over a store of its own."""

    def __init__(self, root: Path, engine: str, *, workers: int = 1) -> None:
        self.counts: dict[str, dict[str, int]] = {}
        self.error: BaseException | None = None
        self._moved = Event()
        self._stop = Event()
        self._thread = Thread(target=self._run, args=(root, engine, workers))
        self._thread.start()

    def _run(self, root: Path, engine: str, workers: int) -> None:
        try:
            with FeatureStore(root) as store:
                self.counts = store.stream(
                    engine=engine, workers=workers, stop=self._stop, report=self._report
                )
        except BaseException as error:  # noqa: BLE001 - raised by `stop`
            self.error = error
        self._moved.set()

    def _report(self, counts: dict[str, dict[str, int]]) -> None:
        self.counts = counts
        self._moved.set()

    def records(self) -> int:
        """Return how many records went through."""
        return sum(found.get("records", 0) for found in self.counts.values())

    def await_records(self, count: int) -> None:
        """Return once that many records went through."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.records() < count and self._thread.is_alive():
            self._moved.wait(1.0)
            self._moved.clear()
            assert time.monotonic() < deadline, f"{self.records()} of {count} records came through"

    def await_end(self) -> None:
        """Return once it has ended by itself."""
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the stream does not end"

    def await_that(self, holds: Callable[[], bool]) -> None:
        """Return once a condition holds, while the stream runs."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert self._thread.is_alive(), "the stream has ended"
            assert time.monotonic() < deadline, "it never came to hold"
            self._moved.wait(0.2)
            self._moved.clear()

    def stop(self) -> None:
        """Stop as SIGTERM does, and raise what went wrong."""
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the stream does not stop"
        if self.error is not None:
            raise self.error


@contextmanager
def streaming(root: Path, engine: str, **options: Any) -> Iterator[Stream]:
    """Run a stream for the length of a block."""
    running = Stream(root, engine, **options)
    try:
        yield running
    finally:
        running.stop()


def check(
    store: FeatureStore,
    ingested: Sequence[Row] = (),
    *,
    seed: int = 0,
    sample: int = 12,
    is_row: Callable[[bytes | None], bool] = lambda value: True,
) -> int:
    """Compare every set's offline rows, and the online state of every entity, with the oracle's.

    `ingested` are payments that came by batch, `sample` how many instants are asked per entity, `is_row`
    what of a topic's messages is a row. Returns how many values were compared.
    """
    paid, visited = [*ingested, *sent(store, "payments", is_row)], sent(store, "visits", is_row)
    judge = Judge(paid, visited)
    for name in shop.SETS:
        assert _offline(store, name) == _expected(judge.rows[name]), f"the rows of {name} are others"
    rng = random.Random(seed)
    edges = sorted({row["at"] + span for row in [*paid, *visited] for span in (0, shop.HOUR_US)})
    reader = store.reader("profile")
    compared = 0
    for customer in [*shop.CUSTOMERS, "nobody", None]:
        for favourite in shop.SHOPS if customer == shop.CUSTOMERS[0] else [rng.choice(shop.SHOPS)]:
            times = [rng.choice(edges) + rng.choice([-1, 0, 0, 1, shop.HOUR_US]) for _ in range(sample)]
            asked = {"customer": customer, "favourite": favourite, "bonus": 1}
            result = reader.read([asked] * len(times), as_of=times)
            names = [field.name for field in result.columns]
            for t, values, error in zip(times, result.rows, result.errors, strict=True):
                assert error is None, error
                expected = judge.profile(customer, favourite, 1, t)
                check_cells(expected, dict(zip(names, values, strict=True)), (customer, favourite, t))
                compared += len(names)
    return compared


def _offline(store: FeatureStore, name: str) -> Counter[str]:
    plan = store.catalog.feature_set(name)
    table = store.environment.rows_table(plan)
    snapshot = table.snapshot()
    if snapshot is None:
        return Counter()
    found = oracle.rows_of(table.lazy(snapshot, schema=plan.columns).collect())
    return _named(found, [field.name for field in plan.columns])


def _expected(rows: Sequence[Row]) -> Counter[str]:
    names = [field.name for field in shop.SETS[rows[0]["__set"]].columns] if rows else []
    return _named(rows, names)


def _named(rows: Sequence[Row], names: Sequence[str]) -> Counter[str]:
    times = (plans.EVENT_TIME, plans.INGEST_TIME, plans.ROW_HASH)
    return Counter(repr([row[name] for name in (*names, *times)]) for row in rows)
