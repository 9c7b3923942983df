"""From the offline table into a generation of the online store, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from featurestore import tables
from featurestore.contracts import OfflineTable, Snapshot
from featurestore.keys import SHARDS
from featurestore.online.layout import OnlineLayout
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan
from featurestore_engines.batch.ahead import ahead

_ROWS_AT_ONCE = 500_000


@dataclass(frozen=True)
class Filled:
    """Rows applied, rows that were there already, and the positions that the generation has reached."""

    rows: int
    duplicates: int
    positions: dict[str, int]


def online_columns(plan: SetPlan, table_columns: list[str]) -> list[str]:
    """Return the table's columns that the online state is made from."""
    parts = OnlineLayout.of(plan).parts
    needed = (
        {f.name for f in plan.plain}
        | {name for name, _ in parts.columns}
        | {by for by, _ in parts.categories}
    )
    for condition in parts.conditions:
        needed |= condition.columns
    return [name for name in table_columns if name in needed or name.startswith("__")]


def fill(
    plan: SetPlan,
    table: OfflineTable,
    writer: OnlineWriter,
    *,
    partitions: Callable[[Mapping[str, int]], dict[str, int]] = tables.row_partitions,
    progress: Callable[[int], None] | None = None,
) -> Filled:
    """Apply the offline rows of the newest version that the generation lacks.

    `partitions` picks from the version's positions those to bring: all, or the batch rows alone. Reads a
    range of shards at a time, so memory is bounded whatever the table's size; a run that is interrupted is
    completed by another, which reads the ranges that are not done.
    """
    snapshot = table.snapshot()
    if snapshot is None:
        return Filled(0, 0, {})
    cut = partitions(table.positions(snapshot))
    known = writer.positions()
    since = {name: min(positions.get(name, 0) for positions in known.values()) for name in cut}
    since = {name: low for name, low in since.items() if low < cut[name]}
    if not since:
        return Filled(0, 0, cut)
    rows = duplicates = 0
    parts = []
    for low, high in _ranges(sum(cut[name] - since[name] for name in since)):
        behind = {name: min(known[shard].get(name, 0) for shard in range(low, high)) for name in since}
        behind = {name: done for name, done in behind.items() if done < cut[name]}
        if behind:  # else brought by a run that was interrupted later
            parts.append((behind, (low, high)))

    def read(part: tuple[dict[str, int], tuple[int, int]]) -> pl.DataFrame:
        behind, shards = part
        return _read(plan, table, snapshot, {name: cut[name] for name in behind}, behind, shards)

    frames = ahead(map(read, parts))  # a range is read while the one before it is written
    for frame, (behind, (low, high)) in zip(frames, parts, strict=True):
        wanted = {name: cut[name] for name in behind}
        applied = writer.apply(frame, wanted)
        writer.checkpoint(wanted, range(low, high))
        rows += applied.rows
        duplicates += applied.duplicates
        if progress is not None:
            progress(frame.height)
    return Filled(rows, duplicates, cut)


def _read(
    plan: SetPlan,
    table: OfflineTable,
    snapshot: Snapshot,
    cut: Mapping[str, int],
    since: Mapping[str, int],
    shards: tuple[int, int],
) -> pl.DataFrame:
    names = table.lazy(snapshot).collect_schema().names()
    return table.lazy(
        snapshot, online_columns(plan, names), shards=shards, cut=cut, since=since, schema=plan.columns
    ).collect(engine="streaming")


def _ranges(rows: int) -> list[tuple[int, int]]:
    """Return ranges of shards of some `_ROWS_AT_ONCE` rows each."""
    parts = min(SHARDS, 1 << max(0, (rows // _ROWS_AT_ONCE)).bit_length())
    step = SHARDS // parts
    return [(low, low + step) for low in range(0, SHARDS, step)]
