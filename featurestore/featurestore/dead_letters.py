"""Reading dead letters: one at a time, newest first, or counted; and the record of those replayed.

A letter's id is a digest of what it says: what was refused, where it stood, why, and its bytes. So a refusal
that was written twice (after a crash, by two versions of a set) is one letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_hexdigest

from featurestore import tables
from featurestore.instants import format_instant, from_datetime

if TYPE_CHECKING:
    import polars as pl

    from featurestore.contracts import OfflineTable
    from featurestore.environment import Environment

SENDING, SENT = "sending", "sent"
"""States of a letter that is replayed: it is about to be sent again, and it is durable again."""

_READ_ROWS = 512  # letters at once; each has at most `max_bytes:`


@dataclass(frozen=True)
class Letter:
    """A dead letter. `feature_set` is None where the source's schema refused the row, for all sets."""

    id: str
    source: str
    feature_set: str | None
    partition: str | None
    sequence: int
    ingest_time: int
    code: str
    message: str
    payload: bytes | None

    def to_dict(self) -> dict[str, Any]:
        """Return the letter as JSON values: `text` is its bytes where they are text, else None."""
        try:
            text = None if self.payload is None else self.payload.decode()
        except UnicodeDecodeError:
            text = None
        return {
            "id": self.id,
            "time": format_instant(self.ingest_time),
            "source": self.source,
            "feature_set": self.feature_set,
            "code": self.code,
            "message": self.message,
            "partition": self.partition,
            "sequence": self.sequence,
            "bytes": None if self.payload is None else len(self.payload),
            "text": text,
        }


@dataclass(frozen=True)
class Chosen:
    """Which letters: each of the bounds that is not None holds. `since` is microseconds."""

    source: str | None = None
    feature_set: str | None = None
    code: str | None = None
    since: int | None = None

    def condition(self) -> pl.Expr:
        """Return the condition on a table with a letter's columns."""
        import polars as pl

        found = pl.lit(True)
        for name in ("source", "feature_set", "code"):
            wanted = getattr(self, name)
            if wanted is not None:
                found &= pl.col(name) == wanted
        if self.since is not None:
            found &= pl.col("ingest_time") >= pl.lit(self.since).cast(pl.Datetime("us", "UTC"))
        return found


def newest(environment: Environment, chosen: Chosen, limit: int) -> list[dict[str, Any]]:
    """Return the newest letters, each as JSON values with `replayed`: when, `sending`, or None."""
    table = environment.offline.table(tables.DEAD_LETTERS)
    snapshot = table.snapshot()
    if snapshot is None:
        return []
    found = table.lazy(snapshot).filter(chosen.condition())
    rows = found.sort("ingest_time", "sequence", descending=True).head(limit).collect(engine="streaming")
    letters = list({letter.id: letter for letter in _letters(rows)}.values())
    states = states_of(environment, [letter.id for letter in letters])
    return [letter.to_dict() | {"replayed": _shown(states.get(letter.id))} for letter in letters]


def _shown(state: tuple[str, int] | None) -> str | None:
    return None if state is None else state[0] if state[0] == SENDING else format_instant(state[1])


def counts(environment: Environment, chosen: Chosen) -> list[dict[str, Any]]:
    """Return the number of rows refused, by source, set and code, with first, newest and `replayed`."""
    import polars as pl

    by = ["source", "feature_set", "code"]
    table = environment.offline.table(tables.DEAD_LETTERS)
    snapshot = table.snapshot()
    if snapshot is None:
        return []
    place = pl.struct("partition", "sequence").hash()
    time = pl.col("ingest_time")
    found = (
        table.lazy(snapshot)
        .filter(chosen.condition())
        .group_by(by)
        .agg(place.n_unique().alias("rows"), time.min().alias("first"), time.max().alias("newest"))
        .sort("rows", *by, descending=[True, False, False, False])
        .collect(engine="streaming")
    )
    replays = environment.offline.table(tables.REPLAYS)
    replayed: dict[tuple[Any, ...], int] = {}
    if (known := replays.snapshot()) is not None:
        sent = replays.lazy(known).filter(chosen.condition(), pl.col("state") == SENT)
        for *key, number in sent.group_by(by).agg(pl.col("id").n_unique()).collect().iter_rows():
            replayed[tuple(key)] = number
    return [
        row
        | {name: format_instant(from_datetime(row[name])) for name in ("first", "newest")}
        | {"replayed": replayed.get(tuple(row[name] for name in by), 0)}
        for row in found.iter_rows(named=True)
    ]


def read(environment: Environment, chosen: Chosen, ids: Sequence[str]) -> Iterator[list[Letter]]:
    """Yield the letters, some hundreds at a time, each once; of `ids` where any are given."""
    table = environment.offline.table(tables.DEAD_LETTERS)
    snapshot = table.snapshot()
    if snapshot is None:
        return
    seen: set[int] = set()
    query = table.lazy(snapshot).filter(chosen.condition())
    for frame in query.collect_batches(chunk_size=_READ_ROWS, maintain_order=True):
        for part in frame.iter_slices(_READ_ROWS):
            fresh = []
            for letter in _letters(part):
                number = int(letter.id, 16)
                if number not in seen and (not ids or letter.id in ids):
                    seen.add(number)
                    fresh.append(letter)
            if fresh:
                yield fresh


def states_of(environment: Environment, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return the state of those of the letters that were replayed, and since when."""
    import polars as pl

    table = environment.offline.table(tables.REPLAYS)
    snapshot = table.snapshot()
    if snapshot is None or not ids:
        return {}
    wanted = pl.LazyFrame({"id": list(ids)}, schema={"id": pl.String})
    rows = table.lazy(snapshot, ["id", "state", "at"]).join(wanted, on="id", how="semi").collect()
    found: dict[str, tuple[str, int]] = {}
    for name, state, at in rows.sort("at").iter_rows():
        if found.get(name, ("", 0))[0] != SENT:
            found[name] = state, from_datetime(at)
    return found


def streams_of(table: OfflineTable) -> set[str]:
    """Return the names that are partitions of streams, not inputs of a batch source."""
    names = tables.row_partitions(table.positions(table.snapshot()))
    return {name.partition(" ")[0] for name in names}  # behind the space, the source


def _letters(rows: pl.DataFrame) -> Iterator[Letter]:
    for row in rows.iter_rows(named=True):
        place = (row["source"], row["feature_set"], row["partition"], row["sequence"])
        said = repr((*place, row["code"], row["message"])).encode() + (row["payload"] or b"")
        time = from_datetime(row.pop("ingest_time"))
        yield Letter(id=xxh3_64_hexdigest(said), ingest_time=time, **row)
