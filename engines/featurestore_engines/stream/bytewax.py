"""The Bytewax runner: partitions are read, rows are routed by shard, each shard has one writer.

The operators are those of `pipeline`; the dataflow only moves what they make. Bytewax's own recovery
stays off: every store knows its positions (DESIGN 8). Positions of idle shards travel the same way as
rows, so that none is recorded before the rows below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event
from typing import TypeVar

import bytewax.operators as op
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.run import cli_main

from featurestore import instants, plans
from featurestore.contracts import RecordBatch, StreamReader, StreamSource
from featurestore.errors import FeatureStoreError
from featurestore.keys import SHARDS
from featurestore_engines.stream.local import MAX_RECORDS, drain
from featurestore_engines.stream.patience import Patience
from featurestore_engines.stream.pipeline import (
    Counts,
    Job,
    OfflineSink,
    OnlineSink,
    Preparation,
    Prepared,
    StreamEngine,
    Watch,
    catch_up,
)

LANES = 16
"""Groups of shards; each has one writer, on the worker that Bytewax assigns to it."""

Result = TypeVar("Result")
_IDLE = timedelta(milliseconds=20)


@dataclass(frozen=True)
class Piece:
    """Rows of one target in the shards of one lane; without a target, a checkpoint of all its shards."""

    target: str | None
    rows: pl.DataFrame | None
    positions: dict[str, int]


class _Failure:
    """The first error of a dataflow, after which nothing more is applied and the flow ends.

    An exception that leaves an operator makes Bytewax panic, and hides its type.
    """

    def __init__(self) -> None:
        self.error: FeatureStoreError | None = None

    def attempt(self, work: Callable[[], Result], otherwise: Result) -> Result:
        """Return what `work` does; `otherwise` where it fails, or something has failed before."""
        if self.error is None:
            try:
                return work()
            except FeatureStoreError as error:
                self.error = error
        return otherwise


class _Records(FixedPartitionedSource[RecordBatch, None]):
    """The topic's partitions, each from where the furthest store behind needs it."""

    def __init__(self, job: Job, source: StreamSource, ends: Callable[[], bool], failure: _Failure) -> None:
        self._job = job
        self._source = source
        self._ends = ends
        self._failure = failure
        self._watch = Watch(job)

    def list_parts(self) -> list[str]:
        return self._source.partitions()

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Partition:
        del step_id, resume_state

        def open_reader() -> StreamReader:
            return self._source.reader(for_part, self._job.start(for_part) or None)

        return _Partition(open_reader, self._watch, self._ends, self._failure)


class _Partition(StatefulSourcePartition[RecordBatch, None]):
    def __init__(
        self,
        open_reader: Callable[[], StreamReader],
        watch: Watch,
        ends: Callable[[], bool],
        failure: _Failure,
    ) -> None:
        self._open_reader = open_reader
        self._watch = watch
        self._reader: StreamReader | None = None
        self._ends = ends
        self._failure = failure
        self._awake: datetime | None = None

    def next_batch(self) -> Iterable[RecordBatch]:
        batch = self._failure.attempt(self._poll, None)
        if self._failure.error is not None or self._ends():
            raise StopIteration
        self._awake = datetime.now(UTC) + _IDLE if batch is None else None
        return [] if batch is None else [batch]

    def _poll(self) -> RecordBatch | None:
        if self._reader is None:
            self._reader = self._open_reader()
        self._watch.look()
        return self._reader.poll(MAX_RECORDS, 0.0)

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> None:
        return None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class _Rows(StatefulBatchLogic[Prepared, tuple[int, Piece], None]):
    """One partition's rows: gathered for the offline tables, and handed on by lane.

    Rows and the checkpoint that follows their commit leave here in one order, and so arrive.
    """

    def __init__(self, sink: OfflineSink, failure: _Failure) -> None:
        self._sink = sink
        self._failure = failure

    def on_batch(self, values: list[Prepared]) -> tuple[list[tuple[int, Piece]], bool]:
        pieces = []
        for prepared in values:
            self._sink.add(prepared)
            pieces += _lanes(prepared)
        if self._sink.is_due():
            pieces += self._flushed()
        return pieces, False

    def on_notify(self) -> tuple[list[tuple[int, Piece]], bool]:
        return (self._flushed() if self._sink.is_due() else []), False

    def on_eof(self) -> tuple[list[tuple[int, Piece]], bool]:
        return self._flushed(), False

    def notify_at(self) -> datetime | None:
        due_in = self._sink.due_in()
        return None if due_in is None else datetime.now(UTC) + timedelta(seconds=max(due_in, 0))

    def snapshot(self) -> None:
        return None

    def _flushed(self) -> list[tuple[int, Piece]]:
        nothing: dict[str, int] = {}
        done = self._failure.attempt(self._sink.flush, nothing)
        return [(lane, Piece(None, None, done)) for lane in range(LANES)] if done else []


def _lanes(prepared: Prepared) -> list[tuple[int, Piece]]:
    """Return the rows of each target cut by lane."""
    positions = {prepared.partition: prepared.next_sequence}
    pieces = []
    for target, rows in prepared.sets.items():
        for (lane,), part in rows.group_by((pl.col(plans.SHARD) % LANES).alias("lane")):
            pieces.append((int(lane), Piece(target, part, positions)))
    return pieces


class _Online(FixedPartitionedSink[Piece, None]):
    """The online store, by lane."""

    def __init__(self, sink: OnlineSink, failure: _Failure) -> None:
        self._sink = sink
        self._failure = failure

    def list_parts(self) -> list[str]:
        return [f"{lane:02}" for lane in range(LANES)]

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Lane:
        del step_id, resume_state
        return _Lane(self._sink, range(int(for_part), SHARDS, LANES), self._failure)


class _Lane(StatefulSinkPartition[Piece, None]):
    def __init__(self, sink: OnlineSink, shards: Sequence[int], failure: _Failure) -> None:
        self._sink = sink
        self._shards = shards
        self._failure = failure

    def write_batch(self, values: list[Piece]) -> None:
        for piece in values:
            self._failure.attempt(partial(self._write, piece), None)

    def _write(self, piece: Piece) -> None:
        if piece.target is None or piece.rows is None:
            self._sink.checkpoint(piece.positions, self._shards)
        else:
            self._sink.apply(piece.target, piece.rows, piece.positions)

    def snapshot(self) -> None:
        return None


def dataflow(
    job: Job, source: StreamSource, counts: Counts, ends: Callable[[], bool], failure: _Failure
) -> Dataflow:
    """Return the dataflow of one stream source; it ends, with everything committed, once `ends()` is true."""
    preparation = Preparation(job, instants.now)
    online = OnlineSink(job, counts)

    def prepare(batch: RecordBatch) -> list[Prepared]:
        return failure.attempt(lambda: [preparation.prepare(batch)], [])

    flow = Dataflow("featurestore")
    records = op.input("records", flow, _Records(job, source, ends, failure))
    prepared = op.flat_map("prepare", records, prepare)
    by_partition = op.key_on("partition", prepared, lambda item: item.partition)
    pieces = op.stateful_batch("rows", by_partition, lambda _: _Rows(OfflineSink(job, counts), failure))
    lanes = op.map("lane", pieces, lambda item: (f"{item[1][0]:02}", item[1][1]))
    op.output("online", lanes, _Online(online, failure))
    return flow


def run(
    job: Callable[[], Job],
    source: StreamSource,
    stop: Event,
    *,
    changed: Callable[[], bool],
    counts: Counts,
    workers: int = 1,
) -> None:
    """Run until `stop` is set, then commit what was read. As `local.run`, on `workers` threads."""
    patience = Patience(stop)

    def ends() -> bool:
        patience.succeeded()
        return stop.is_set() or changed()

    while not stop.is_set():
        with patience:
            failure = _Failure()
            now = job()
            catch_up(now)
            cli_main(  # type: ignore[no-untyped-call]
                dataflow(now, source, counts, ends, failure),
                workers_per_process=workers,
                epoch_interval=timedelta(seconds=1),
            )
            if failure.error is not None:
                raise failure.error


ENGINE = StreamEngine(run, drain)
