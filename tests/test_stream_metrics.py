"""Metrics of streams: they add up over processes, have the format of Prometheus, and are documented."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from featurestore import metrics
from featurestore.contracts import Record, RecordBatch
from featurestore.metrics import CATALOG, Metrics, lasting, summed, text
from featurestore_engines.stream import progress
from featurestore_engines.stream.progress import Progress

RECORDS = "featurestore_stream_records_total"
READY = "featurestore_stream_ready"
SIZES = "featurestore_stream_batch_records"


def test_counters_and_gauges_have_a_line_per_labels_and_a_head_per_name() -> None:
    made = Metrics()
    made.add(RECORDS, 3, source="payments")
    made.add(RECORDS, 2, source="payments")
    made.add(RECORDS, source='a "b"\\\n')
    made.set(READY, 1)
    assert text(made.numbers()) == (
        f"# HELP {READY} {CATALOG[READY].help}\n"
        f"# TYPE {READY} gauge\n"
        f"{READY} 1.0\n"
        f"# HELP {RECORDS} {CATALOG[RECORDS].help}\n"
        f"# TYPE {RECORDS} counter\n"
        f'{RECORDS}{{source="a \\"b\\"\\\\\\n"}} 1.0\n'
        f'{RECORDS}{{source="payments"}} 5.0\n'
    )


def test_a_histogram_counts_what_is_at_or_below_each_bound() -> None:
    made = Metrics()
    made.observe(SIZES, 1, source="p")
    made.observe(SIZES, np.array([10, 11, 20_001]), source="p")
    lines = text(made.numbers()).splitlines()[2:]
    values = [line.rsplit(" ", 1)[1] for line in lines]
    bounds = [re.search(r'le="([^"]+)"', line) for line in lines]
    assert [bound[1] for bound in bounds if bound] == [
        "1.0",
        "10.0",
        "100.0",
        "1000.0",
        "5000.0",
        "20000.0",
        "+Inf",
    ]
    assert values == ["1.0", "2.0", "3.0", "3.0", "3.0", "3.0", "4.0", "20023.0", "4.0"]


def test_processes_add_up_and_leave_all_but_their_gauges() -> None:
    one, other = Metrics(), Metrics()
    for made, count in ((one, 4), (other, 5)):
        made.add(RECORDS, count, source="p")
        made.observe(SIZES, [count, 200], source="p")
        made.set(READY, 1)
    total = summed([lasting(one.numbers()), other.numbers()])
    assert total[RECORDS, (("source", "p"),)] == [9.0]
    assert total[READY, ()] == [1.0]
    assert total[SIZES, (("source", "p"),)] == [0, 2, 0, 2, 0, 0, 0, 409]


def test_what_is_forgotten_is_gone() -> None:
    made = Metrics()
    made.set("featurestore_stream_lag_events", 1, source="p", partition="0")
    made.set("featurestore_stream_lag_events", 2, source="v", partition="0")
    made.forget("featurestore_stream_lag_events", source="p")
    assert [dict(labels)["source"] for _, labels in made.numbers()] == ["v"]


def test_prometheus_own_parser_reads_it() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    made = Metrics()
    made.add(RECORDS, 3, source='a "b"\\\n')
    made.observe(SIZES, [1, 2], source="p")
    found = {family.name: family for family in parser.text_string_to_metric_families(text(made.numbers()))}
    assert found["featurestore_stream_records"].samples[0].labels == {"source": 'a "b"\\\n'}
    assert found[SIZES].type == "histogram"


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| `(featurestore_(?:stream|upkeep)_\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert rows == {name: metric.kind for name, metric in CATALOG.items()}
    assert metrics.CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def batch(first: int, count: int, time: int | None, size: int = 10) -> RecordBatch:
    records = [Record(first + n, time, None, b"x" * size) for n in range(count)]
    return RecordBatch("t/0", records, first + count)


def test_lag_counts_what_is_not_applied_and_ages_with_the_oldest_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000_000
    monkeypatch.setattr("featurestore.instants.now", lambda: now)
    found = Progress()
    found.begin("t/0", 100)
    assert found.lag({"t/0": 100, "t/1": 7}) == {"t/0": (0, 0.0)}
    found.read(batch(100, 5, now - 3_000_000))
    found.read(batch(105, 5, now - 1_000_000))
    assert found.lag({"t/0": 120}) == {"t/0": (20, 3.0)}
    found.applied("t/0")
    assert found.lag({"t/0": 110}) == {"t/0": (0, 0.0)}
    assert found.lag({"t/0": 120}) == {"t/0": (10, 0.0)}  # not read yet: its age begins when it is seen
    now += 2_000_000
    assert found.lag({"t/0": 120}) == {"t/0": (10, 2.0)}


def test_what_is_in_flight_is_bounded_by_records_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "IN_FLIGHT_RECORDS", 10)
    monkeypatch.setattr(progress, "IN_FLIGHT_BYTES", 1000)
    found = Progress()
    found.begin("t/0", 0)
    found.begin("t/1", 0)
    found.read(batch(0, 9, 0))
    assert found.may_read("t/0")
    found.read(batch(9, 1, 0))
    assert not found.may_read("t/0")
    assert found.may_read("t/1")  # it has nothing in flight: each partition goes on
    found.applied("t/0")
    assert found.may_read("t/0")
    found.read(batch(10, 1, 0, size=1000))
    assert not found.may_read("t/0")
    assert found.in_flight() == (1, 1000)


def test_ready_is_what_was_there_at_the_start_applied() -> None:
    found = Progress()
    found.expect("t/0")
    assert not found.is_open()
    found.begin("t/0", 3)
    assert found.is_open()
    assert found.behind({"t/0": 5}) == 2
    found.read(batch(3, 4, 0))
    found.applied("t/0")
    assert found.behind({"t/0": 900}) == 0
