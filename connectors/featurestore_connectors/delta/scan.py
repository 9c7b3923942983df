"""Which files a read needs, by their statistics, and the Polars query over them.

Polars reads the files: measured against DuckDB and pyarrow's scanner on 5 million rows of 19 columns it
took a third of the time and half the memory (25 million rows a second of six columns on two cores), and it
reads object stores with the same options as deltalake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow as pa

from featurestore.keys import SHARDS
from featurestore.plans import EVENT_TIME, PARTITION, SEQUENCE, SHARD
from featurestore.types import Field

COMPACTED = "compacted/"
"""The folder of files that are sorted by shard, entity and time."""

_BOUND = "__bound"
_ROWS_AT_MOST = 16_000_000
_INSTANT = pl.Datetime("us", "UTC")
_STATISTICS_STEP = 999  # deltalake cuts the bounds of timestamps to milliseconds


def prune(
    adds: pl.DataFrame,
    shards: tuple[int, int] | None,
    since: Mapping[str, int] | None,
    event_times: tuple[int, int] | None,
) -> list[str]:
    """Return the paths of the files that may hold wanted rows, by time; one without statistics may."""
    wanted = []
    if shards is not None:
        wanted.append(_overlaps(adds, SHARD, shards))
    if event_times is not None:
        low, high = event_times
        wanted.append(_overlaps(adds, EVENT_TIME, (low - _STATISTICS_STEP, high + _STATISTICS_STEP)))
    if since is not None and f"max.{SEQUENCE}" in adds.columns:
        lowest = min(since.values(), default=0)
        wanted.append((pl.col(f"max.{SEQUENCE}") >= lowest).fill_null(True))
    if f"min.{EVENT_TIME}" in adds.columns:
        adds = adds.sort(f"min.{EVENT_TIME}", maintain_order=True)
    return list(adds.filter(*wanted)["path"]) if wanted else list(adds["path"])


def ranges(adds: pl.DataFrame, rows: int) -> list[tuple[int, int]]:
    """Return ranges of shards to read one by one, with some `rows` rows each.

    With more where many rows lie in files that are not sorted by shard, as each range reads all of those: so
    few ranges that they read these rows less than twice as often as there are rows, or that each has as many
    as memory should hold.
    """
    sizes = adds["num_records"]
    total = int(sizes.sum())
    loose = int(sizes.filter(~adds["path"].str.starts_with(COMPACTED)).sum())
    parts = 1
    while parts < SHARDS and total > parts * rows:
        if loose * parts >= total and total <= parts * _ROWS_AT_MOST:
            break
        parts *= 2
    step = SHARDS // parts
    return [(low, low + step) for low in range(0, SHARDS, step)]


def _overlaps(adds: pl.DataFrame, column: str, bounds: tuple[int, int]) -> pl.Expr:
    if f"min.{column}" not in adds.columns:
        return pl.lit(True)
    low, high = (pl.lit(bound, pl.Int64) for bound in bounds)
    first, last = (pl.col(f"{end}.{column}").cast(pl.Int64) for end in ("min", "max"))
    return ((last >= low) & (first < high)).fill_null(True)


def empty(schema: pa.Schema) -> pl.LazyFrame:
    """Return a query without rows."""
    frame = pl.from_arrow(schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def select(
    frame: pl.LazyFrame,
    columns: Sequence[str] | None,
    shards: tuple[int, int] | None,
    cut: Mapping[str, int] | None,
    since: Mapping[str, int] | None,
    event_times: tuple[int, int] | None,
    schema: Sequence[Field],
) -> pl.LazyFrame:
    """Return the query of the wanted rows and columns, declared types restored."""
    if shards is not None:
        frame = frame.filter(pl.col(SHARD) >= shards[0], pl.col(SHARD) < shards[1])
    if event_times is not None:
        low, high = (pl.lit(bound).cast(_INSTANT) for bound in event_times)
        frame = frame.filter(pl.col(EVENT_TIME) >= low, pl.col(EVENT_TIME) < high)
    if cut is not None:
        frame = _bounded(frame, cut).filter(pl.col(SEQUENCE) < pl.col(_BOUND)).drop(_BOUND)
    if since is not None:
        frame = _bounded(frame, since).filter(pl.col(SEQUENCE) >= pl.col(_BOUND)).drop(_BOUND)
    if columns is not None:
        frame = frame.select(columns)
        schema = [field for field in schema if field.name in set(columns)]
    return frame.with_columns(pl.col(field.name).cast(field.type.polars()) for field in schema)


def _bounded(frame: pl.LazyFrame, bounds: Mapping[str, int]) -> pl.LazyFrame:
    """Return the rows of the named partitions with each one's number in `_BOUND`.

    A join streams however many partitions there are; mapping the values (`replace_strict`) does not.
    """
    numbers = pl.LazyFrame(
        {PARTITION: list(bounds), _BOUND: list(bounds.values())},
        schema={PARTITION: pl.String, _BOUND: pl.Int64},
    )
    return frame.join(numbers, on=PARTITION, how="inner", maintain_order="left")
