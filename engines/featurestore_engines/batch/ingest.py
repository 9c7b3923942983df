"""Ingest: what is new in a batch source, through the door and the steps, into the offline table.

Each commit carries the rows, their consecutive positions in the partition `batch`, and how many rows of
the input they came from. So a run that stops anywhere goes on where it stopped, the same input again
changes nothing, and two runs at once do each other no harm.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from featurestore import plans, tables
from featurestore.contracts import BatchInput, BatchSource, OfflineTable
from featurestore.errors import ChecksFailed, RequestError
from featurestore.plans import SetPlan
from featurestore.rows.door import admit
from featurestore.rows.transform import transform
from featurestore_engines.batch.ahead import ahead
from featurestore_engines.batch.expectations import Expectations, Verdict, describe

COMMIT_ROWS = 1_000_000
READ_ROWS = 131_072

Mode = Literal["append"]


@dataclass
class IngestReport:
    """What an ingest did. `counts` holds dead letters by reason, and what was counted but not refused.

    `checks` has for each check of the steps its severity and how many rows it found wrong; `expectations`
    what each found in each input. Of an input that was refused they tell what was found, and nothing else.
    """

    feature_set: str
    inputs: int = 0
    known_inputs: int = 0
    rows_read: int = 0
    rows_written: int = 0
    rows_online: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    expectations: list[dict[str, Any]] = field(default_factory=list)

    def check(self, found: Mapping[str, int]) -> None:
        """Add to the rows that checks found wrong."""
        for name, number in found.items():
            self.checks[name]["failed"] += number

    def count(self, name: str, number: int) -> None:
        """Add to a count, which appears once it is not zero."""
        if number:
            self.counts[name] = self.counts.get(name, 0) + number


@dataclass
class _Chunk:
    """Rows on their way into one commit."""

    consumed: int
    rows: pl.DataFrame
    dead: pl.DataFrame
    counts: dict[str, int]
    checks: dict[str, int]


class Ingest:
    """One run over a batch source into one feature set's table."""

    def __init__(
        self,
        plan: SetPlan,
        table: OfflineTable,
        dead_letters: OfflineTable,
        *,
        clock: Callable[[], int],
        mode: Mode | None = None,
        on_rows: Callable[[pl.DataFrame], None] | None = None,
        on_checks: Callable[[int, Mapping[str, int]], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._plan = plan
        self._table = table
        self._dead = dead_letters
        self._clock = clock
        self._mode = mode
        self._on_rows = on_rows
        self._on_checks = on_checks
        self._progress = progress

    def run(self, source: BatchSource) -> IngestReport:
        """Ingest every input of the source that is not in the table yet.

        Raises RequestError where a file's bytes changed in place, unless the mode is `append`, and
        ChecksFailed at the first input that checks or expectations of severity `fail` refuse.
        """
        report = IngestReport(self._plan.name)
        report.checks = {op.name: {"severity": op.severity, "failed": 0} for op in self._plan.steps.checks}
        inputs = source.inputs()
        for item in inputs:
            self._refuse_changed(item)
        for item in inputs:
            report.inputs += 1
            if self._table.position(self._table.snapshot(), tables.input_done(item.digest)):
                report.known_inputs += 1
                continue
            self._judge(source, item, report)
            self._consume(source, item, report)
        return report

    def _judge(self, source: BatchSource, item: BatchInput, report: IngestReport) -> None:
        """Raise ChecksFailed where the input must not be ingested: reads it once, before it is.

        One that an earlier run has begun was judged by that.
        """
        checks = [op.name for op in self._plan.steps.checks if op.severity == "fail"]
        begun = self._table.position(self._table.snapshot(), tables.input_position(item.digest))
        if begun or not (checks or self._plan.expectations):
            return
        found = dict.fromkeys(checks, 0)
        first: dict[str, str] = {}
        rows = 0
        with Expectations(self._plan, item.name) as expectations:
            for chunk in self._parts(source, item, 0):
                rows = chunk.consumed
                expectations.add(chunk.rows)
                for name in checks:
                    found[name] += chunk.checks.get(name, 0)
                    if found[name] and not first.get(name):
                        first[name] = _first(chunk.dead, name)
            verdicts = expectations.verdicts()
        report.expectations += describe(verdicts)
        broken = _broken(found, first, rows, verdicts)
        if broken:
            report.check(found)
            raise _refused(item, broken, self._plan.name, report)

    def _refuse_changed(self, item: BatchInput) -> None:
        half = self._plan.source.batch
        if half is not None and half["kind"] == "sql" and self._plan.source.event_id:
            return  # a query's result grows; its rows are told apart by their ids
        seen = self._table.position(self._table.snapshot(), tables.input_name(item.name))
        if seen and seen != _stamp(item) and self._mode is None:
            raise RequestError(
                f"'{item.name}' was ingested before with other contents.",
                where=f"feature set '{self._plan.name}'",
                hint="Put new rows into a new file, or add this one's rows as well with --mode append.",
            )

    def _consume(self, source: BatchSource, item: BatchInput, report: IngestReport) -> None:
        while not self._bring(source, item, report):
            pass  # another run is in the midst of it: on from where that one is
        finished = {tables.input_done(item.digest): 1, tables.input_name(item.name): _stamp(item)}
        while True:
            snapshot = self._table.snapshot()
            if snapshot is None:
                empty = self._transformed(
                    pl.DataFrame(schema={f.name: f.type.polars() for f in self._plan.source.schema}), 0
                )
                written = self._table.append(None, empty.rows.to_arrow(), finished | {tables.BATCH: 0})
            else:
                written = self._table.append(snapshot, _no_rows(self._table, snapshot), finished)
            if written is not None:
                return

    def _bring(self, source: BatchSource, item: BatchInput, report: IngestReport) -> bool:
        """Commit the rest of an input; False where another run is at a row within one of our chunks.

        Chunks end where they ended before, unless another release, or another clock, refuses other rows.
        """
        done = self._table.position(self._table.snapshot(), tables.input_position(item.digest))
        for chunk in ahead(self._chunks(source, item, done)):
            reached = self._commit(item, chunk, done)
            if reached is not None and reached != chunk.consumed:
                return False
            if reached is None:
                report.rows_read += chunk.consumed - done
                report.rows_written += chunk.rows.height
                for name, number in chunk.counts.items():
                    report.count(name, number)
                report.check(chunk.checks)
                if self._on_checks is not None and chunk.checks:
                    self._on_checks(chunk.consumed - done, chunk.checks)
                if self._on_rows is not None:
                    self._on_rows(chunk.rows)
            done = chunk.consumed
        return True

    def _chunks(self, source: BatchSource, item: BatchInput, done: int) -> Iterator[_Chunk]:
        """Yield the input's rows from number `done` on, transformed, some `COMMIT_ROWS` at a time."""
        parts: list[_Chunk] = []
        waiting = 0
        for part in self._parts(source, item, done):
            parts.append(part)
            waiting += part.rows.height
            if self._progress is not None:
                self._progress(part.consumed - done)
            done = part.consumed
            if waiting >= COMMIT_ROWS:
                yield _joined(parts)
                parts, waiting = [], 0
        if parts:
            yield _joined(parts)

    def _parts(self, source: BatchSource, item: BatchInput, done: int) -> Iterator[_Chunk]:
        """Yield the input's rows from number `done` on, transformed, as they are read."""
        for batch in source.read(item, done, READ_ROWS):
            frame = pl.from_arrow(pa.Table.from_batches([batch]))
            assert isinstance(frame, pl.DataFrame)
            yield self._transformed(frame, done, item.name)
            done += frame.height

    def _transformed(self, frame: pl.DataFrame, start: int, name: str = "") -> _Chunk:
        numbered = frame.with_columns(
            pl.lit(name, pl.String).alias(plans.PARTITION),
            pl.int_range(start, start + frame.height, dtype=pl.Int64).alias(plans.SEQUENCE),
        )
        admitted = admit(self._plan.source, numbered, now=self._clock())
        done = transform(self._plan, admitted.rows)
        dead = pl.concat([admitted.rejected, done.rejected])
        counts: dict[str, int] = {}
        for name, number in [*admitted.counts.items(), *done.counts.items()]:
            if name not in ("rows", "rejected") and number:
                counts[name] = counts.get(name, 0) + number
        for code, number in dead["code"].value_counts().iter_rows():
            counts[code] = number
        return _Chunk(start + frame.height, done.rows, dead, counts, done.checks)

    def _commit(self, item: BatchInput, chunk: _Chunk, done: int) -> int | None:
        """Commit a chunk that starts at row `done`; where another run has come further, return how far."""
        self._bury(item, chunk)
        position = tables.input_position(item.digest)
        while True:
            snapshot = self._table.snapshot()
            reached = self._table.position(snapshot, position)
            if reached > done:
                return reached
            start = self._table.position(snapshot, tables.BATCH)
            end = start + chunk.rows.height
            rows = chunk.rows.with_columns(
                pl.lit(tables.BATCH).alias(plans.PARTITION),
                pl.int_range(start, end, dtype=pl.Int64).alias(plans.SEQUENCE),
            )
            positions = {tables.BATCH: end, position: chunk.consumed}
            if self._table.append(snapshot, rows.to_arrow(), positions) is not None:
                return None

    def _bury(self, item: BatchInput, chunk: _Chunk) -> None:
        """Write the chunk's dead letters, unless an earlier try has, or another set those of the source."""
        of_source = pl.col("feature_set").is_null()
        source, name = self._plan.source, tables.input_position(item.digest)
        self._bury_once(chunk.dead.filter(of_source), f"{name}/{source.name}@{source.fingerprint}", chunk)
        self._bury_once(chunk.dead.filter(~of_source), f"{name}/{self._plan.name}", chunk)

    def _bury_once(self, dead: pl.DataFrame, position: str, chunk: _Chunk) -> None:
        while dead.height:
            snapshot = self._dead.snapshot()
            known = self._dead.position(snapshot, position)
            if known >= chunk.consumed:
                return
            lacking = dead.filter(pl.col("sequence") >= known)
            if self._dead.append(snapshot, lacking.to_arrow(), {position: chunk.consumed}) is not None:
                return


def _first(dead: pl.DataFrame, check: str) -> str:
    """Return where a check first found a row wrong, and why; nothing where another's reason stands there.

    That may be so where a row became several.
    """
    wrong = dead.filter(pl.col("code") == "validate", pl.col("message").str.starts_with(f"{check}: "))
    if not wrong.height:
        return ""
    message = wrong["message"][0].removeprefix(f"{check}: ")
    return f" (first in row {wrong['sequence'].min() + 1}: {message})"  # type: ignore[operator]


def _broken(
    found: Mapping[str, int], first: Mapping[str, str], rows: int, verdicts: list[Verdict]
) -> list[str]:
    """Return in words what refuses an input."""
    checks = [
        f"{name}: {number:,} of {rows:,} rows are wrong{first[name]}"
        for name, number in found.items()
        if number
    ]
    return checks + [f"{v.name}: {v.text}" for v in verdicts if not v.is_met and v.severity == "fail"]


def _refused(item: BatchInput, broken: list[str], name: str, report: IngestReport) -> ChecksFailed:
    error = ChecksFailed(
        f"'{item.name}' is not ingested. {'; '.join(broken)}.",
        where=f"feature set '{name}'",
        hint="Repair it and ingest again; nothing of it was taken.",
    )
    error.report = report
    return error


def _joined(parts: list[_Chunk]) -> _Chunk:
    counts: dict[str, int] = {}
    checks: dict[str, int] = {}
    for part in parts:
        for name, number in part.counts.items():
            counts[name] = counts.get(name, 0) + number
        for name, number in part.checks.items():
            checks[name] = checks.get(name, 0) + number
    return _Chunk(
        parts[-1].consumed,
        pl.concat([part.rows for part in parts]),
        pl.concat([part.dead for part in parts]),
        counts,
        checks,
    )


def _no_rows(table: OfflineTable, snapshot: object) -> pa.Table:
    return table.lazy(snapshot, shards=(0, 0)).collect().to_arrow()  # type: ignore[arg-type]


def _stamp(item: BatchInput) -> int:
    """Return a number that tells an input's contents from others'."""
    return zlib.crc32(item.digest.encode()) + 1
