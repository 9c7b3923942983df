"""The application transactions of a table's log: its positions.

deltalake answers for one name at a time; here all of a version are read, from the newest checkpoint
at or below it and the commits after (the Delta protocol's `txn` actions, which checkpoints keep).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet$")


def commit_path(version: int) -> str:
    """Return the path of a version's commit, relative to the table."""
    return f"_delta_log/{version:020d}.json"


def commit_actions(files: pyarrow.fs.FileSystem, version: int) -> list[dict[str, Any]]:
    """Return the actions of one commit. Raises FileNotFoundError when the log no longer has it."""
    with files.open_input_stream(commit_path(version)) as stream:
        return [json.loads(line) for line in stream.read().splitlines() if line.strip()]


def read_positions(
    files: pyarrow.fs.FileSystem, version: int, base: tuple[int, Mapping[str, int]] | None = None
) -> dict[str, int]:
    """Return every transaction's number at `version`, from an earlier version's map where one is given."""
    if base is not None and base[0] <= version:
        try:
            return _replay(files, base[0], version, dict(base[1]))
        except FileNotFoundError:
            pass  # the commits after it were cleaned from the log; a checkpoint holds them
    start, parts = _checkpoint(files, version)
    positions: dict[str, int] = {}
    for part in parts:
        with files.open_input_file(part) as stream:
            for txn in pq.read_table(stream, columns=["txn"])["txn"].drop_null().to_pylist():
                positions[txn["appId"]] = txn["version"]
    return _replay(files, start, version, positions)


def _replay(
    files: pyarrow.fs.FileSystem, after: int, version: int, positions: dict[str, int]
) -> dict[str, int]:
    for number in range(after + 1, version + 1):
        for action in commit_actions(files, number):
            if txn := action.get("txn"):
                positions[txn["appId"]] = txn["version"]
    return positions


def _checkpoint(files: pyarrow.fs.FileSystem, version: int) -> tuple[int, list[str]]:
    """Return the newest complete checkpoint's version, not above `version`, and its files; -1 without."""
    found: dict[int, list[str]] = {}
    wanted: dict[int, int] = {}
    for info in files.get_file_info(pyarrow.fs.FileSelector("_delta_log")):
        match = _CHECKPOINT.match(info.base_name)
        if match and int(match[1]) <= version:
            found.setdefault(int(match[1]), []).append(info.path)
            wanted[int(match[1])] = int(match[3] or 1)
    complete = [number for number, parts in found.items() if len(parts) == wanted[number]]
    newest = max(complete, default=-1)
    return newest, found.get(newest, [])
