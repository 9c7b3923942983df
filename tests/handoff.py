"""What the tests of the handoff share: a project whose versions differ, its events, the oracle's vectors."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import oracle
import polars as pl
from parity import check_cells, write_project

from featurestore import FeatureStore
from featurestore.rows.identity import row_hash

Row = dict[str, Any]
ORIGIN = datetime(2026, 3, 1, tzinfo=UTC)
AT = ORIGIN + timedelta(hours=30)
CUSTOMERS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def specs(
    *, windows: str = "[1h, 2d]", limit: int = 50, halves: str = "event_id: id", column: str = ""
) -> str:
    """Return the declarations of one version: its windows, what is `large`, how its halves meet."""
    return f"""
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
ingest_time: seen
{halves}
schema: {{id: string, customer: int64, at: timestamp, seen: timestamp, amount: float64{column}}}
batch: {{kind: parquet, path: "data/*.parquet"}}
stream: {{topic: payments}}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
history: all
steps:
  - derive: {{large: "amount > {limit}"}}
  - select: [amount, large]
aggregations:
  - {{column: amount, functions: [sum, count, max], windows: {windows}}}
---
kind: FeatureSet
name: trend
entities: [customer]
source: payments
history: all
steps:
  - select: [amount]
aggregations:
  - {{column: amount, functions: [last], windows: {windows}}}
---
kind: FeatureVector
name: risk
features: [spend.*, "trend.* as trend_*"]
"""


def write(
    root: Path, online: Mapping[str, Any], stream: Mapping[str, Any] | None = None, **version: Any
) -> Path:
    """Write the project in one version; return its folder."""
    config = {"project": "shop", "online": dict(online), "stream": dict(stream or {"kind": "log"})}
    (root / "data").mkdir(parents=True, exist_ok=True)
    return write_project(root, specs(**version), json.dumps(config))


def revise(root: Path, **version: Any) -> None:
    """Write other declarations into the project."""
    (root / "specs.yaml").write_text(specs(**version))


def payments(count: int, first: int = 0, *, seed: int = 0) -> list[Row]:
    """Return payments in the order of their event times, one every minute."""
    rng = random.Random(seed)
    made = []
    for number in range(first, first + count):
        at = ORIGIN + timedelta(minutes=number)
        amount = float(rng.randrange(1, 100))
        made.append(
            {"id": f"p{number}", "customer": rng.randrange(CUSTOMERS), "at": at, "seen": at, "amount": amount}
        )
    return made


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Return rows as a frame."""
    schema = {"id": pl.String, "customer": pl.Int64, "amount": pl.Float64}
    return pl.DataFrame(list(rows), schema_overrides=schema)


def write_batch(root: Path, name: str, rows: Sequence[Row]) -> None:
    """Write rows as a file of the batch half."""
    frame(rows).write_parquet(root / "data" / f"{name}.parquet")


def send(store: FeatureStore, rows: Sequence[Row]) -> None:
    """Append rows to the topic, as a producer does that knows nothing of the store."""
    topic = store.environment.stream(store.catalog.source("payments"))
    for row in rows:
        said = {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()
        }
        topic.append([(None, json.dumps(said).encode())])


def expected(store: FeatureStore, rows: Sequence[Row], customer: int, reference: str = "risk") -> Row:
    """Return the oracle's cells of the version of the vector that the reference names."""
    plan = store.catalog.vector(reference)
    cells: Row = {}
    for lookup in plan.lookups:
        facts = [_fact(lookup.set, row) for row in rows]
        found = oracle.expected_cells(lookup.set, facts, customer, _micros(AT))
        cells |= {chosen.output: found[chosen.feature] for chosen in lookup.features}
    return cells


def _fact(plan: Any, row: Row) -> Row:
    found = re.search(r"amount\" > ([\d.]+)", plan.steps.text)  # the one constant that versions differ by
    limit = float(found[1]) if found else 0.0
    raw = {name: _micros(value) if isinstance(value, datetime) else value for name, value in row.items()}
    raw = {field.name: raw.get(field.name) for field in plan.source.schema}
    return {
        **raw,
        "large": raw["amount"] > limit,
        "__key": row["customer"],
        "__event_time": _micros(row["at"]),
        "__ingest_time": _micros(row["seen"]),
        "__row_hash": row_hash(raw, plan.source.schema),
        **({"__event_id": row["id"]} if plan.source.event_id else {}),
    }


def _micros(value: datetime) -> int:
    return (value - _EPOCH) // timedelta(microseconds=1)


def check(store: FeatureStore, rows: Sequence[Row], reference: str = "risk") -> int:
    """Compare the vector of every customer, and the number of offline rows, with the oracle's."""
    store.catalog.forget()
    compared = 0
    for customer in range(CUSTOMERS):
        found = store.vector(reference).get_online([{"customer": customer}], as_of=AT).to_dicts()[0]
        check_cells(expected(store, rows, customer, reference), found, (reference, customer))
        compared += len(found)
    for lookup in store.catalog.vector(reference).lookups:
        table = store.environment.rows_table(lookup.set)
        snapshot = table.snapshot()
        times = None if snapshot is None else table.lazy(snapshot, ["__event_time"]).collect().to_series()
        assert times is not None
        assert times.n_unique() == len(rows), "an offline row is lost"  # one row a minute
        assert lookup.set.source.event_id or len(times) == len(rows), "an offline row counts twice"
    assert store.verify("risk", sample=50).is_equal
    return compared


class Poller:
    """Asks for vectors all the time, as a service does, and judges each by the version that gave it."""

    def __init__(self, root: Path, rows: Sequence[Row]) -> None:
        self.versions: list[str] = []
        self.answers = 0
        self._by_customer = {c: [row for row in rows if row["customer"] == c] for c in range(CUSTOMERS)}
        self._seen = dict.fromkeys(range(CUSTOMERS), 0)
        self._error: BaseException | None = None
        self._stop = Event()
        self._thread = Thread(target=self._run, args=(root,))
        self._thread.start()

    def _run(self, root: Path) -> None:
        try:
            with FeatureStore(root) as store:
                while not self._stop.is_set():
                    self._ask(store)
        except BaseException as error:  # noqa: BLE001 - raised by `stop`
            self._error = error

    def _ask(self, store: FeatureStore) -> None:
        result = store.vector("risk").get_online([{"customer": c} for c in range(CUSTOMERS)], as_of=AT)
        if result.vector not in self.versions:
            self.versions.append(result.vector)
        for customer, found in enumerate(result.to_dicts()):
            known = self._by_customer[customer]
            count = found["amount_count_2d"]
            assert count >= self._seen[customer], f"{customer}: {count} events after {self._seen[customer]}"
            self._seen[customer] = count
            applied = len(known)
            cells = expected(store, known[:count], customer, result.vector)
            newest = [n for n in range(applied + 1) if n and known[n - 1]["amount"] == found["trend_amount"]]
            assert newest or found["trend_amount"] is None
            ours = {name: value for name, value in found.items() if not name.startswith("trend_")}
            check_cells({name: cells[name] for name in ours}, ours, (result.vector, customer, count))
        self.answers += 1

    def stop(self) -> None:
        """End, and raise what was wrong."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


@contextmanager
def polling(root: Path, rows: Sequence[Row]) -> Iterator[Poller]:
    """Ask for vectors for the length of a block; `rows` are all that will come, in their order."""
    poller = Poller(root, rows)
    try:
        yield poller
    finally:
        poller.stop()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


def command(root: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    line = [sys.executable, "-m", "featurestore.cli", "--project", str(root), *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
