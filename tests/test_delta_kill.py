"""A writer that is killed at any point leaves rows and positions that agree."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from featurestore_connectors.delta import DeltaOfflineStore

WRITER = """
import sys
import pyarrow as pa
from featurestore_connectors.delta import DeltaOfflineStore

table = DeltaOfflineStore({"path": sys.argv[1]}).table("rows")
number = 0
while True:
    snapshot = table.snapshot()
    first = table.position(snapshot, "p")
    count = first % 7
    hours = [n * 3_600_000_000 for n in range(first, first + count)]
    rows = pa.table({
        "__event_time": pa.array(hours, pa.timestamp("us", "UTC")),
        "__partition": pa.array(["p"] * count, pa.string()),
        "__sequence": pa.array(range(first, first + count), pa.int64()),
    })
    moved = table.append(snapshot, rows, {"p": first + max(count, 1), "all": first + max(count, 1)})
    assert moved is not None
    number += 1
    if sys.argv[2] == "compact" and number % 5 == 0:
        table.compact()
    print(first + max(count, 1), flush=True)
"""


def run_and_kill(path: Path, mode: str, lines: int) -> int:
    """Return the last position that the writer acknowledged before it was killed mid-flight."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = 0
    for _ in range(lines):
        acknowledged = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    return int(rest[-1]) if rest else acknowledged


def check(path: Path, acknowledged: int) -> None:
    table = DeltaOfflineStore({"path": str(path)}).table("rows")
    snapshot = table.snapshot()
    assert snapshot is not None
    position = table.position(snapshot, "p")
    assert position >= acknowledged
    assert table.positions(snapshot) == {"p": position, "all": position}
    expected: list[int] = []
    at = 0
    while at < position:
        expected += range(at, at + at % 7)
        at += max(at % 7, 1)
    found = [v for batch in table.scan(snapshot, ["__sequence"]) for v in batch.column(0).to_pylist()]
    assert sorted(found) == expected
    assert at == position


def test_a_writer_killed_while_appending_leaves_positions_that_agree_with_the_rows(tmp_path: Path) -> None:
    chance = random.Random(3)
    for _ in range(5):
        check(tmp_path, run_and_kill(tmp_path, "append", 1 + chance.randrange(12)))


def test_a_writer_killed_while_compacting_leaves_positions_that_agree_with_the_rows(tmp_path: Path) -> None:
    chance = random.Random(4)
    for _ in range(5):
        check(tmp_path, run_and_kill(tmp_path, "compact", 3 + chance.randrange(8)))
