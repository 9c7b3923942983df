"""What a stream measures: counters, gauges and histograms, added up over processes, as Prometheus text.

Processes of one stream report their numbers to the one that supervises them, which shows the sum; a
library's registry belongs to one process. Every name is in `CATALOG`, and so in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FRESHNESS = (*_SECONDS[:5], 0.15, 0.2, *_SECONDS[5:7], 0.75, *_SECONDS[7:], 300.0, 3600.0)
_RECORDS = (1, 10, 100, 1_000, 5_000, 20_000)

Labels = tuple[tuple[str, str], ...]
Numbers = dict[tuple[str, Labels], list[float]]
"""Name and labels to a value; of a histogram, the counts of its buckets, of what is beyond, and the sum."""


@dataclass(frozen=True)
class Metric:
    """What a name stands for. `buckets` are upper bounds, of a histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    buckets: tuple[float, ...] = ()


CATALOG = {
    "featurestore_stream_records_total": Metric("counter", "Records read from the source's topic."),
    "featurestore_stream_applied_total": Metric("counter", "Rows applied online, over generations."),
    "featurestore_stream_duplicates_total": Metric("counter", "Rows that a generation had already."),
    "featurestore_stream_conflicts_total": Metric("counter", "Shard writes that another writer overtook."),
    "featurestore_stream_rejected_total": Metric("counter", "Records refused, by the dead letter's code."),
    "featurestore_stream_rows_total": Metric("counter", "Rows filtered, of the other half, …, by kind."),
    "featurestore_stream_check_failed_total": Metric("counter", "Rows that a `validate` check found wrong."),
    "featurestore_stream_committed_total": Metric("counter", "Rows committed offline, over tables."),
    "featurestore_stream_out_of_order_total": Metric(
        "counter", "Rows that happened before one that came earlier by their partition; applied all the same."
    ),
    "featurestore_stream_null_key_total": Metric("counter", "Rows without a key of a set, over sets."),
    "featurestore_upkeep_total": Metric("counter", "What upkeep did: rows, files, runs, failures."),
    "featurestore_stream_retries_total": Metric(
        "counter", "Times that a store or the broker did not answer and was tried again."
    ),
    "featurestore_stream_restarts_total": Metric(
        "counter", "Times that the stream started itself anew: new versions, generations or partitions."
    ),
    "featurestore_stream_process_restarts_total": Metric("counter", "Times that processes were replaced."),
    "featurestore_stream_lag_events": Metric(
        "gauge", "Records of the partition that are not applied online yet."
    ),
    "featurestore_stream_lag_seconds": Metric(
        "gauge", "Age of the partition's oldest record that is read and not applied online yet; 0 for none."
    ),
    "featurestore_stream_freshness_seconds": Metric(
        "histogram",
        "From the broker's record time until the online store has acknowledged the row.",
        _FRESHNESS,
    ),
    "featurestore_stream_batch_seconds": Metric(
        "histogram", "One micro-batch of one generation: rows to acknowledged state.", _SECONDS
    ),
    "featurestore_stream_batch_records": Metric("histogram", "Records read at once.", _RECORDS),
    "featurestore_stream_commit_seconds": Metric("histogram", "One commit of all offline tables.", _SECONDS),
    "featurestore_stream_in_flight_records": Metric("gauge", "Records read and not applied online yet."),
    "featurestore_stream_in_flight_bytes": Metric("gauge", "Bytes read and not applied online yet."),
    "featurestore_stream_waiting_records": Metric("gauge", "Records that await the next offline commit."),
    "featurestore_stream_state_bytes": Metric("gauge", "Bytes that a generation takes online."),
    "featurestore_stream_state_entities": Metric("gauge", "Entities that a generation holds online."),
    "featurestore_stream_resident_bytes": Metric("gauge", "Memory of a process of the stream."),
    "featurestore_stream_ready": Metric("gauge", "1 where /readyz says yes, else 0."),
}


class Metrics:
    """The numbers of one process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers: Numbers = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._numbers.setdefault(key, [0.0])[0] += amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._numbers[name, tuple(sorted(labels.items()))] = [float(value)]

    def forget(self, *names: str, **labels: str) -> None:
        """Remove the gauges of these names that have these labels."""
        wanted = set(labels.items())
        with self._lock:
            for key in [key for key in self._numbers if key[0] in names and wanted <= set(key[1])]:
                del self._numbers[key]

    def observe(self, name: str, values: Any, **labels: str) -> None:
        """Add a number, or an array of numbers, to a histogram."""
        buckets = CATALOG[name].buckets
        found = np.atleast_1d(np.asarray(values, np.float64))
        counts = np.bincount(np.searchsorted(buckets, found), minlength=len(buckets) + 1)
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            numbers = self._numbers.setdefault(key, [0.0] * (len(buckets) + 2))
            for place, count in enumerate([*counts.tolist(), float(found.sum())]):
                numbers[place] += count

    def numbers(self) -> Numbers:
        """Return a copy of all numbers."""
        with self._lock:
            return {key: list(values) for key, values in self._numbers.items()}


def summed(parts: Iterable[Mapping[tuple[str, Labels], list[float]]]) -> Numbers:
    """Return the numbers of several processes, added up."""
    total: Numbers = {}
    for part in parts:
        for key, values in part.items():
            before = total.get(key)
            total[key] = (
                list(values) if before is None else [a + b for a, b in zip(before, values, strict=True)]
            )
    return total


def lasting(numbers: Numbers) -> Numbers:
    """Return what remains of a process that has ended: all but the gauges."""
    return {key: values for key, values in numbers.items() if CATALOG[key[0]].kind != "gauge"}


def text(numbers: Numbers) -> str:
    """Return the numbers in Prometheus' text format."""
    lines = []
    named = ""
    for (name, labels), values in sorted(numbers.items()):
        metric = CATALOG[name]
        if name != named:
            named = name
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        if metric.kind != "histogram":
            lines.append(f"{name}{_braces(labels)} {values[0]!r}")
            continue
        below = 0.0
        for bound, count in zip([*map(float, metric.buckets), "+Inf"], values[:-1], strict=True):
            below += count
            lines.append(f"{name}_bucket{_braces((*labels, ('le', str(bound))))} {below!r}")
        lines += [f"{name}_sum{_braces(labels)} {values[-1]!r}", f"{name}_count{_braces(labels)} {below!r}"]
    return "\n".join([*lines, ""])


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
