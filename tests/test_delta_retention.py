"""Retention takes rows that became known before a day, and nothing else: no position, no younger row."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from test_delta_compact import FEBRUARY, JANUARY, NOW, SCHEMA, append, names, some_rows, stored

from featurestore.contracts import Forgotten
from featurestore.instants import DAY, HOUR
from featurestore_connectors.delta import DeltaOfflineStore, DeltaTable
from featurestore_connectors.delta import retention as retention_module


def a_table(folder: Path, name: str = "landing") -> DeltaTable:
    return DeltaOfflineStore({"path": str(folder)}).table(name)


def known(rows: list[dict[str, Any]], at: int) -> list[dict[str, Any]]:
    return [row | {"__ingest_time": at} for row in rows]


def test_whole_files_go_and_positions_stay(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    old, young = some_rows(0, 50, JANUARY, DAY), some_rows(50, 50, FEBRUARY, DAY)
    append(table, old)
    append(table, young)
    assert table.forgotten(table.snapshot()) is None
    assert table.forget(FEBRUARY + HOUR) == {"files": 1, "rows": 50, "abandoned": 0}
    snapshot = table.snapshot()
    assert stored(table) == young
    assert table.positions(snapshot) == {"p": 100}
    assert table.forgotten(snapshot) == Forgotten(FEBRUARY, {"p": 50})
    assert table.forget(FEBRUARY + HOUR) == {"files": 0, "rows": 0, "abandoned": 0}


def test_a_file_with_younger_rows_is_written_anew_without_the_older_ones(tmp_path: Path) -> None:
    """By when they became known, not by when they happened; to the microsecond of the day's begin."""
    table = a_table(tmp_path)
    rows = some_rows(0, 40, JANUARY, DAY)
    mixed = [*known(rows[:20], FEBRUARY - 1), *known(rows[20:], FEBRUARY)]
    append(table, mixed)
    assert table.forget(FEBRUARY)["rows"] == 20
    assert stored(table) == mixed[20:]
    assert names(table) == ["recent"]


def test_compacted_files_stay_in_their_months(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    rows = some_rows(0, 60, JANUARY, DAY)
    append(table, [*known(rows[:30], JANUARY), *known(rows[30:], FEBRUARY)])
    assert table.compact(NOW)["rows"] == 60
    assert table.forget(FEBRUARY)["rows"] == 30
    assert names(table) == ["compacted/2026-01"]
    assert stored(table) == known(rows[30:], FEBRUARY)
    append(table, known(some_rows(60, 30, JANUARY, DAY), FEBRUARY))
    assert table.compact(NOW)["rows"] == 60
    assert len(stored(table)) == 60


def test_what_went_is_remembered_past_later_appends_and_never_goes_back(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    for number, at in enumerate([JANUARY, JANUARY + DAY, FEBRUARY]):
        append(table, known(some_rows(number * 10, 10, at, DAY), at))
    assert table.forget(JANUARY + 2 * DAY)["rows"] == 20
    assert table.forget(JANUARY + DAY)["rows"] == 0
    append(table, known(some_rows(30, 10, JANUARY, DAY), JANUARY))  # late, and due again
    assert table.forget(JANUARY + 2 * DAY)["rows"] == 10
    again = a_table(tmp_path)
    assert again.forgotten(again.snapshot()) == Forgotten(JANUARY + 2 * DAY, {"p": 40})


def test_the_loser_against_a_compaction_gives_up(tmp_path: Path, monkeypatch: Any) -> None:
    """The files that it read are compacted before it commits: it changes nothing, and the next run does."""
    table = a_table(tmp_path)
    rows = known(some_rows(0, 40, JANUARY, DAY), JANUARY)
    append(table, [*rows[:20], *known(rows[20:], FEBRUARY)])
    write = retention_module._write

    def slow(*given: Any) -> None:
        write(*given)
        a_table(tmp_path).compact(NOW)

    monkeypatch.setattr(retention_module, "_write", slow)
    assert table.forget(FEBRUARY) == {"files": 0, "rows": 0, "abandoned": 1}
    monkeypatch.undo()
    assert len(stored(table)) == 40
    assert table.forget(FEBRUARY)["rows"] == 20


def test_appends_go_on_while_rows_are_taken(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    append(table, known(some_rows(0, 10, JANUARY, DAY), JANUARY))
    done = threading.Event()

    def forget() -> None:
        while not done.is_set():
            a_table(tmp_path).forget(FEBRUARY)

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        for number in range(1, 40):
            part = some_rows(number * 10, 10, JANUARY, DAY)
            kept = known(part, FEBRUARY if number % 2 else JANUARY)
            while True:
                snapshot = table.snapshot()
                data = pa.Table.from_pylist(kept, SCHEMA)
                if table.append(snapshot, data, {"p": number * 10 + 10}) is not None:
                    break
    finally:
        done.set()
        thread.join()
    table.forget(FEBRUARY)
    assert [row["__sequence"] // 10 for row in stored(table)] == [
        n for n in range(1, 40, 2) for _ in range(10)
    ]
    assert table.positions(table.snapshot()) == {"p": 400}


def test_dead_letters_go_by_their_own_time(tmp_path: Path) -> None:
    table = a_table(tmp_path, "dead_letters")
    times = pa.array([JANUARY, FEBRUARY], pa.timestamp("us", "UTC"))
    letters = pa.table({"source": ["s", "s"], "sequence": [1, 2], "ingest_time": times})
    table.append(None, letters, {"p": 3})
    assert table.forget(FEBRUARY) == {"files": 1, "rows": 1, "abandoned": 0}
    snapshot = table.snapshot()
    assert snapshot is not None
    assert table.lazy(snapshot).collect()["sequence"].to_list() == [2]
    assert table.positions(snapshot) == {"p": 3}


def test_a_table_that_is_not_there_is_left_alone(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    assert table.forget(NOW) == {"files": 0, "rows": 0, "abandoned": 0}
    assert table.forgotten(table.snapshot()) is None


def test_the_log_loses_what_is_older_than_a_day_and_positions_stay(tmp_path: Path) -> None:
    """A table of 205 commits, two checkpoints among them, whose files are made two days old."""
    table = a_table(tmp_path)
    for number in range(205):
        append(table, some_rows(number, 1, JANUARY, DAY))
    log = Path(table.location.uri, "_delta_log")
    for file in log.iterdir():
        os.utime(file, (time.time() - 2 * 86_400,) * 2)
    before = stored(table)
    assert table.vacuum(DAY) == 0
    assert len(list(log.glob("*.json"))) < 20
    again = a_table(tmp_path)
    assert again.positions(again.snapshot()) == {"p": 205}
    assert stored(again) == before
