"""What every benchmark shares: rows of results, processes to measure in, the peers' interpreters.

A benchmark is a function that takes a `Bench` and yields a `Row` for each comparison. What it times runs
in a process of its own (`isolated`), so that peak memory is that of the work alone, and one measurement
does not warm or crowd another.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "build" / "peers"
"""Where `make bench-peers` installs each peer's virtual environment."""

SEED = 20_261_121
_RESULT = "benchmark-result: "


@dataclass(frozen=True)
class Row:
    """One comparison. Costs are in `unit` (s, ms, bytes: less is better; events/s: more is better).

    `ratio` is named by `target`: how many times the reference's cost (`<= 1.5x`) or speed (`>= 20x`) ours
    is. Both are None where there is no reference; then `ours` itself meets the target or not. `met` is None
    where the reference could not be run.
    """

    number: int
    work: str
    ours: float
    unit: str
    reference: str | None
    theirs: float | None
    ratio: float | None
    target: str
    met: bool | None
    peak_memory: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


def at_most(
    number: int,
    work: str,
    ours: float,
    unit: str,
    reference: str,
    theirs: float | None,
    limit: float,
    **more: Any,
) -> Row:
    """Return the row of a cost that may be `limit` times the reference's."""
    ratio = None if theirs is None else ours / theirs
    met = None if ratio is None else ratio <= limit
    return Row(number, work, ours, unit, reference, theirs, ratio, f"<= {limit:g}x", met, **_more(more))


def at_least(
    number: int,
    work: str,
    ours: float,
    unit: str,
    reference: str,
    theirs: float | None,
    limit: float,
    **more: Any,
) -> Row:
    """Return the row of a cost (or of a rate, where the unit ends in /s) `limit` times better than theirs."""
    ratio = None if theirs is None else (ours / theirs if unit.endswith("/s") else theirs / ours)
    met = None if ratio is None else ratio >= limit
    return Row(number, work, ours, unit, reference, theirs, ratio, f">= {limit:g}x", met, **_more(more))


def absolute(number: int, work: str, ours: float, unit: str, limit: float, **more: Any) -> Row:
    """Return the row of a cost with a limit of its own; of a rate (a unit in /s), the limit is the least."""
    met = ours >= limit if unit.endswith("/s") else ours <= limit
    sign = ">=" if unit.endswith("/s") else "<="
    return Row(number, work, ours, unit, None, None, None, f"{sign} {limit:g} {unit}", met, **_more(more))


def _more(given: dict[str, Any]) -> dict[str, Any]:
    return {"peak_memory": given.pop("peak_memory", None), "details": given}


@dataclass(frozen=True)
class Bench:
    """How a run measures: the scale (1 is full size), where it may write, and what could not run."""

    scale: float
    directory: Path
    with_peers: bool = True
    skipped: list[str] = field(default_factory=list)

    def size(self, full: int, least: int = 1) -> int:
        """Return a full size at this scale."""
        return max(least, round(full * self.scale))

    def scratch(self, name: str) -> Path:
        """Return a folder for a benchmark's data. What is there may be used again at the same scale."""
        path = self.directory / f"{name}-{self.scale:g}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def peer(self, name: str) -> Path | None:
        """Return the interpreter in which a peer is installed; None, noted, where it is not."""
        python = PEERS / name / "bin" / "python"
        if self.with_peers and python.exists():
            return python
        note = f"{name} was left out" if not self.with_peers else f"{name} is not installed: make bench-peers"
        if note not in self.skipped:
            self.skipped.append(note)
        return None


@dataclass(frozen=True)
class Measured:
    """What a function in a process of its own returned, and the most bytes that the process held."""

    value: Any
    peak_memory: int


def isolated(function: str, *, python: Path | None = None, **arguments: Any) -> Measured:
    """Call `module:function` with arguments in a new process; they and its value are of JSON's types.

    With `python`, a peer's interpreter, `module` is a file of benchmarks/peers (without .py).
    """
    environment = dict(os.environ)
    if python is None:
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    else:
        environment["PYTHONPATH"] = str(Path(__file__).with_name("peers"))
    command = [str(python or sys.executable), str(Path(__file__).with_name("child.py"))]
    process = subprocess.run(
        [*command, function, json.dumps(arguments)],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    for line in process.stdout.splitlines():
        if line.startswith(_RESULT):
            found = json.loads(line[len(_RESULT) :])
            return Measured(found["value"], found["peak_memory"])
    raise RuntimeError(f"{function} {arguments} failed with status {process.returncode}:\n{process.stdout}")


def best(function: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least seconds of several calls."""
    return min(_timed(function) for _ in range(repeats))


def each(function: Callable[[], Any], calls: int, warm: int = 50) -> list[float]:
    """Return the seconds of each of many calls, after some to warm up."""
    for _ in range(warm):
        function()
    return [_timed(function) for _ in range(calls)]


def _timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share (0..1) of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


median = statistics.median


@dataclass(frozen=True)
class Point:
    """One point of a chart: what a line's cost (y, in `unit`) is at x."""

    chart: str
    line: str
    x: float
    y: float
    unit: str
