"""Metrics for Prometheus: requests, latencies, rows, cells by status, and the backend's own gauges."""

from __future__ import annotations

import os
import re
from collections import Counter as Counts
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from featurestore.online.statuses import STATUSES

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder through which several workers add up; prometheus-client's own variable."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{\w+="(?:[^"\\\n]|\\.)*"(?:,\w+="(?:[^"\\\n]|\\.)*")*\})?$'
)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "featurestore_requests", "Requests answered.", ["endpoint", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "featurestore_request_seconds",
            "Seconds from a request's head to its answer.",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._rows = Counter("featurestore_rows_served", "Rows answered.", registry=self._registry)
        cells = Counter(
            "featurestore_cells_served", "Values answered, by status.", ["status"], registry=self._registry
        )
        self._overflows = Counter(
            "featurestore_overflows",
            "Sums and differences answered as null because their types cannot hold them.",
            registry=self._registry,
        )
        self._cells = {status: cells.labels(status) for status in STATUSES}
        self._by_endpoint: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        found = self._by_endpoint.get((endpoint, status))
        if found is None:
            found = (self._requests.labels(endpoint, str(status)), self._seconds.labels(endpoint))
            self._by_endpoint[endpoint, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def served(self, statuses: Sequence[Sequence[str]], overflows: int = 0) -> None:
        """Count the rows and cells of an answer, and the overflows among its features."""
        self._rows.inc(len(statuses))
        if overflows:
            self._overflows.inc(overflows)
        different = {id(row): row for row in statuses}  # most rows share one list
        times = Counts(map(id, statuses))
        cells = Counts[str]()
        for number, row in different.items():
            for status in set(row):
                cells[status] += times[number] * row.count(status)
        for status, count in cells.items():
            self._cells[status].inc(count)

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """Return all metrics in Prometheus' text format, the backend's gauges behind the service's own."""
        registry = self._registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        lines: list[str] = []
        named = ""
        for sample in sorted(gauges):
            match = _SAMPLE.match(sample)
            if match is None:
                raise ValueError(f"'{sample}' is no Prometheus sample")
            if match[1] != named:
                named = match[1]
                lines.append(f"# TYPE {named} gauge\n")
            lines.append(f"{sample} {float(gauges[sample])!r}\n")
        return bytes(generate_latest(registry)) + "".join(lines).encode()
