"""What the core asks of the batch engine, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import polars as pl

from featurestore import instants, plans, tables
from featurestore.contracts import BatchSource, OfflineTable
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan, SourcePlan, TrainingPlan, VectorPlan
from featurestore_engines.batch.fitting import Fitting, fitting
from featurestore_engines.batch.ingest import Ingest, IngestReport, Mode
from featurestore_engines.batch.lookup import FOUND, OVERFLOWS, Asked, FrameReader, as_of_values
from featurestore_engines.batch.materialize import Filled, fill
from featurestore_engines.batch.questions import Options
from featurestore_engines.batch.training import TrainingSet, training_set

Progress = Callable[[int], None]
"""Called with the number of rows just done."""


class BatchEngine:
    """Runs plans on files and frames. It keeps no state of its own."""

    def __init__(self, clock: Callable[[], int] = instants.now) -> None:
        self._clock = clock

    def ingest(
        self,
        plan: SetPlan,
        source: BatchSource,
        table: OfflineTable,
        dead_letters: OfflineTable,
        *,
        mode: Mode | None = None,
        on_rows: Callable[[pl.DataFrame], None] | None = None,
        on_checks: Callable[[int, Mapping[str, int]], None] | None = None,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Bring what is new in `source` into the set's offline table; the same input again is a no-op."""
        run = Ingest(
            plan,
            table,
            dead_letters,
            clock=self._clock,
            mode=mode,
            on_rows=on_rows,
            on_checks=on_checks,
            progress=progress,
        )
        return run.run(source)

    def fill(
        self, plan: SetPlan, table: OfflineTable, writer: OnlineWriter, progress: Progress | None = None
    ) -> Filled:
        """Bring a generation of the online store up to the offline table."""
        return fill(plan, table, writer, progress=progress)

    def feed(
        self, plan: SetPlan, table: OfflineTable, writer: OnlineWriter, progress: Progress | None = None
    ) -> Filled:
        """Bring ingested rows, not those of streams, into a generation."""

        def batch_only(positions: Mapping[str, int]) -> dict[str, int]:
            return {name: end for name, end in positions.items() if name == tables.BATCH}

        return fill(plan, table, writer, partitions=batch_only, progress=progress)

    def options(
        self,
        event_time: str,
        as_known: bool = False,
        training: TrainingPlan | None = None,
        cut: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Options:
        """Return how a training set is asked for: all rows are kept, unless `training` says which."""
        rows = training or TrainingPlan()
        return Options(event_time, as_known, rows.start, rows.end, cut, rows.where, rows.join)

    def training_set(
        self,
        plan: VectorPlan,
        table: Callable[[SetPlan], OfflineTable],
        rows: pl.DataFrame | None,
        options: Options,
    ) -> TrainingSet:
        """Return the features of `rows`, each at its own instant."""
        return training_set(plan, table, rows, options)

    def fitting(
        self,
        source: SourcePlan,
        inputs: Sequence[BatchSource],
        landing: OfflineTable | None,
        until: int | None,
        *,
        either_half: bool = False,
    ) -> AbstractContextManager[Fitting]:
        """Return the rows of a source up to an instant, of which columns can be fitted."""
        return fitting(source, inputs, landing, until, self._clock, either_half=either_half)

    def preview(self, plan: SetPlan, rows: pl.DataFrame) -> pl.DataFrame:
        """Return keys, event time and all features of transformed rows, each at its own event time."""
        at = rows[plans.EVENT_TIME].dt.epoch("us")
        asked = Asked.of(rows.select(plans.KEY, plans.SHARD), None, at)
        aggregates = [a.name for a in plan.aggregates]
        columns = [rows[key.column].alias(key.request_column) for key in plan.keys]
        result = pl.DataFrame([*columns, rows[plans.EVENT_TIME].alias("event_time")])
        plain = rows.select(pl.col(f.name) for f in plan.plain if f.name not in result.columns)
        found = pl.DataFrame()
        if aggregates:
            found = as_of_values(plan, FrameReader(rows), asked, aggregates).drop(FOUND, OVERFLOWS)
        return pl.concat([result, plain, found], how="horizontal")
