"""The plain runner: one process, one loop, the same operators as on Bytewax."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Event

from featurestore import instants
from featurestore.contracts import StreamReader, StreamSource
from featurestore.errors import FeatureStoreError, StoreUnavailable
from featurestore_engines.stream.patience import GIVE_UP_SECONDS, Patience
from featurestore_engines.stream.pipeline import (
    MAX_RECORDS,
    Counts,
    Job,
    OfflineSink,
    OnlineSink,
    Preparation,
    StreamEngine,
    Watch,
    catch_up,
    gather,
    retrying,
)

POLL_SECONDS = 0.05


class Loop:
    """One source's stream in this thread: reads every partition in turn, applies, commits."""

    def __init__(
        self,
        job: Job,
        source: StreamSource,
        counts: Counts | None = None,
        clock: Callable[[], int] = instants.now,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._committed = committed
        self.counts = Counts() if counts is None else counts
        self._job = job
        self._source = source
        self._preparation = Preparation(job, clock)
        self._offline = OfflineSink(job, self.counts)
        self._online = OnlineSink(job, self.counts)
        self._watch = Watch(job)
        self._readers: list[StreamReader] = []
        self._reached: dict[str, int] = {}

    def __enter__(self) -> Loop:
        """Bring tables up to landing, and open every partition where the furthest store behind needs it."""
        self.counts.progress.restart()
        catch_up(self._job)
        self._reached = {partition: self._job.start(partition) for partition in self._source.partitions()}
        self._readers = [
            self._source.reader(partition, start or None) for partition, start in self._reached.items()
        ]
        self.counts.progress.forget()
        for partition, start in self._reached.items():
            self.counts.progress.begin(partition, start)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the readers. What was read before an error that ends the stream is committed all the same.

        It is online already, and the topic may be gone.
        """
        if isinstance(error, FeatureStoreError) and not isinstance(error, StoreUnavailable):
            with suppress(FeatureStoreError):
                self._offline.flush()
        for reader in self._readers:
            reader.close()

    def step(self, is_over: Callable[[], bool] = lambda: False) -> int:
        """Read the partitions once, apply what came, commit when due; return how many records.

        Once `is_over`, no further partition is read: each may hold seconds of work.
        """
        records = 0
        progress = self.counts.progress
        batches = gather(self._turn(), progress, MAX_RECORDS, POLL_SECONDS, lambda _: not is_over())
        if batches:
            prepared = self._preparation.prepare(batches)
            records = prepared.records
            self.counts.observe("batch_records", records)
            for target, rows in prepared.sets.items():
                self._online.apply(target, rows, prepared.positions, prepared.times_of(rows))
            self._offline.add(prepared)
            for partition, end in prepared.positions.items():
                self.counts.progress.applied(partition)
                self._reached[partition] = end
        self.counts.progress.waiting = self._offline.waiting
        if self._offline.is_due():
            self.flush()
        self._watch.look()
        return records

    def _turn(self) -> list[StreamReader]:
        """Return the readers, another one first every time."""
        self._readers = [*self._readers[1:], *self._readers[:1]]
        return self._readers

    def drain(self, until: Mapping[str, int] | None = None, before: float = math.inf) -> None:
        """Apply and commit everything up to `until`; without it, what the partitions hold now.

        No step begins when the monotonic clock has come to `before`.
        """
        ends = {reader.partition: reader.end() for reader in self._readers} if until is None else until
        while any(self._reached[partition] < end for partition, end in ends.items()):
            if time.monotonic() >= before:
                break
            self.step()
        self.flush()

    def flush(self) -> None:
        """Commit what was read, then let idle shards know."""
        done = self._offline.flush()
        if done:
            self._online.checkpoint(done)
            self._committed()


def drain(
    job: Job, source: StreamSource, until: Mapping[str, int] | None = None, before: float = math.inf
) -> Counts:
    """Apply everything up to `until` (default: what the topic holds now), commit it, and return.

    When the monotonic clock comes to `before`, the rest is left. Raises StoreUnavailable where a store does
    not answer; calling again goes on from there.
    """
    with Loop(job, source) as loop:
        loop.drain(until, before)
        return loop.counts


def run(
    job: Callable[[], Job],
    source: StreamSource,
    stop: Event,
    *,
    changed: Callable[[], bool],
    counts: Counts,
    workers: int = 1,
    give_up_seconds: float = GIVE_UP_SECONDS,
) -> None:
    """Run until `stop` is set, then commit what was read. One thread, whatever `workers` says.

    `job` is asked for at the start and again whenever `changed()` says that there is another one. A store
    or a broker that does not answer is tried again for `give_up_seconds`, then StoreUnavailable is raised.
    """
    del workers
    patience = Patience(stop, give_up_seconds, partial(retrying, counts))
    while not stop.is_set():
        with patience, Loop(job(), source, counts, committed=patience.succeeded) as loop:
            while not stop.is_set() and not changed():
                loop.step(stop.is_set)
                counts.progress.moved()
            loop.flush()


ENGINE = StreamEngine(run, drain)
