"""Run benchmarks: print a row for each comparison, and write them to benchmarks/results/.

Exits 0 when all was measured, whether or not each target is met: the rows say that.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, SEED, Bench, Row

WORKS = {
    1: "offline:plain_join",
    2: "offline:windowed_join",
    3: "offline:large_join",
    4: "ingest:ingest",
    5: "loading:load",
    6: "streaming:throughput",
    7: "streaming:freshness",
    8: "online:plain_vector",
    9: "online:windowed_vector",
    10: "over_http:requests",
    11: "loading:bytes_per_entity",
    12: "starting:start",
}
"""Each work of the table in docs/performance.md, and the function that measures it."""

GROWTH = ("offline", "ingest", "loading", "streaming", "online", "over_http")
"""The modules that measure how the costs of their works grow, for the charts."""

PACKAGES = (
    "numpy",
    "polars",
    "duckdb",
    "pyarrow",
    "redis",
    "hiredis",
    "granian",
    "bytewax",
    "confluent-kafka",
)


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, system, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
    }


def line(row: Row) -> str:
    """Return a row as it is printed."""
    met = {True: "met", False: "MISSED", None: "not compared"}[row.met]
    against = "" if row.theirs is None else f" | {row.reference}: {amount(row.theirs, row.unit)}"
    ratio = "" if row.ratio is None else f" | {row.ratio:.3g}x"
    memory = "" if row.peak_memory is None else f" | {row.peak_memory / 1e9:.2f} GB"
    ours = f"{row.number:>2} {row.work} | {amount(row.ours, row.unit)}"
    return f"{ours}{against}{ratio} | {row.target}: {met}{memory}"


def amount(value: float, unit: str) -> str:
    """Return a figure with its unit, to three digits."""
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "works", nargs="*", type=int, help=f"numbers of works, of {min(WORKS)}..{max(WORKS)}; all"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full sizes: 0.01 takes seconds"
    )
    parser.add_argument(
        "--growth", action="store_true", help="measure how the works' costs grow too, for the charts"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave Feast and storey out")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "bench", help="for generated data")
    given = parser.parse_args(arguments)
    bench = Bench(given.scale, given.directory, with_peers=not given.no_peers)
    began, rows, points, failed = datetime.now(UTC), [], [], []
    works = given.works or list(WORKS)
    for number in works:
        try:
            for row in _function(WORKS[number])(bench):
                print(line(row), flush=True)
                rows.append(row)
        except Exception as error:  # noqa: BLE001 - one work that fails does not take the others' figures along
            failed.append(f"{number}: {error}")
    modules = {WORKS[number].partition(":")[0] for number in works} if given.growth else set()
    for module in filter(modules.__contains__, GROWTH):
        try:
            for point in _function(f"{module}:growth")(bench):
                print(
                    f"   {point.chart} | {point.line} | {point.x:g}: {amount(point.y, point.unit)}",
                    flush=True,
                )
                points.append(point)
        except Exception as error:  # noqa: BLE001 - see above
            failed.append(f"{module}: {error}")
    for failure in failed:
        print(f"FAILED {failure}", file=sys.stderr)
    for note in bench.skipped:
        print(note, file=sys.stderr)
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{began:%Y%m%dT%H%M%S}.json"
    record = {
        "began": began.isoformat(),
        "command": " ".join(["python -m benchmarks", *map(str, arguments or sys.argv[1:])]),
        "scale": given.scale,
        "seed": SEED,
        "machine": machine(),
        "skipped": bench.skipped,
        "failed": failed,
        "rows": [asdict(row) for row in rows],
        "points": [asdict(point) for point in points],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path}")
    return 1 if failed else 0


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


if __name__ == "__main__":
    sys.exit(main())
