"""Ingest: what is new in a batch source, through the door and the steps, into the offline table.

Each commit carries rows of one input or several, their consecutive positions in the partition `batch`, and
how many rows of each input they came from. So a run that stops anywhere goes on where it stopped, the same
input again changes nothing, and two runs at once do each other no harm. While one commit is written, the rows
of the next are read and transformed in a thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from featurestore import plans, tables
from featurestore.contracts import BatchInput, BatchSource, OfflineTable
from featurestore.errors import ChecksFailed, FeatureStoreError, RequestError
from featurestore.plans import SetPlan
from featurestore.rows.door import admit
from featurestore.rows.transform import transform
from featurestore_engines.batch.ahead import ahead
from featurestore_engines.batch.expectations import Expectations, Verdict, describe

COMMIT_ROWS = 500_000
READ_ROWS = 250_000
_NO_COUNTS = ("rows", "rejected")

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
class _Part:
    """Rows `begin` to `end` of one input, transformed; with `is_last` it has no more."""

    item: BatchInput
    begin: int
    end: int
    is_last: bool
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
        self._wrong: dict[str, int] = {}

    def run(self, source: BatchSource) -> IngestReport:
        """Ingest every input of the source that is not in the table yet.

        Raises RequestError where a file's bytes changed in place, unless the mode is `append`, and
        ChecksFailed at the first input that checks or expectations of severity `fail` refuse.
        """
        report = IngestReport(self._plan.name)
        report.checks = {op.name: {"severity": op.severity, "failed": 0} for op in self._plan.steps.checks}
        inputs = source.inputs()
        positions = self._table.positions(self._table.snapshot())
        for item in inputs:
            self._refuse_changed(item, positions)
        try:
            while not self._bring(source, inputs, report):
                pass  # another run is in the midst of an input: on from where that one is
        except ChecksFailed:
            report.check(self._wrong)  # here, where no other thread counts
            raise
        return report

    def _judge(self, source: BatchSource, item: BatchInput, report: IngestReport) -> None:
        """Raise ChecksFailed where the input must not be ingested: reads it once, before it is."""
        checks = [op.name for op in self._plan.steps.checks if op.severity == "fail"]
        if not (checks or self._plan.expectations):
            return
        found = dict.fromkeys(checks, 0)
        first: dict[str, str] = {}
        rows = 0
        with Expectations(self._plan, item.name) as expectations:
            for part in self._parts(source, item, 0):
                rows = part.end
                expectations.add(part.rows)
                for name in checks:
                    found[name] += part.checks.get(name, 0)
                    if found[name] and not first.get(name):
                        first[name] = _first(part.dead, name)
            verdicts = expectations.verdicts()
        report.expectations += describe(verdicts)
        broken = _broken(found, first, rows, verdicts)
        if broken:
            self._wrong = found
            raise _refused(item, broken, self._plan.name, report)

    def _refuse_changed(self, item: BatchInput, positions: Mapping[str, int]) -> None:
        half = self._plan.source.batch
        if half is not None and half["kind"] == "sql" and self._plan.source.event_id:
            return  # a query's result grows; its rows are told apart by their ids
        seen = positions.get(tables.input_name(item.name))
        if seen and seen != _stamp(item) and self._mode is None:
            raise RequestError(
                f"'{item.name}' was ingested before with other contents.",
                where=f"feature set '{self._plan.name}'",
                hint="Put new rows into a new file, or add this one's rows as well with --mode append.",
            )

    def _bring(self, source: BatchSource, inputs: Sequence[BatchInput], report: IngestReport) -> bool:
        """Commit what is new in the inputs; False where another run has come to other rows meanwhile."""
        for parts in ahead(self._loads(source, inputs, report)):
            committed = self._commit(parts)
            if committed is None:
                return False
            report.rows_read += sum(part.end - part.begin for part in parts)
            report.rows_written += committed.height
            for name, number in _total(part.counts for part in parts).items():
                report.count(name, number)
            checks = _total(part.checks for part in parts)
            report.check(checks)
            if self._on_checks is not None and checks:
                self._on_checks(sum(part.end - part.begin for part in parts), checks)
            if self._on_rows is not None:
                self._on_rows(committed)
        return True

    def _loads(
        self, source: BatchSource, inputs: Sequence[BatchInput], report: IngestReport
    ) -> Iterator[list[_Part]]:
        """Yield what is new in the inputs, some `COMMIT_ROWS` at a time, of as many inputs as these are in.

        What comes before an error is yielded before that is raised.
        """
        load: list[_Part] = []
        rows = 0
        try:
            for part in self._new(source, inputs, report):
                load.append(part)
                rows += part.rows.height + part.dead.height
                if rows >= COMMIT_ROWS:
                    yield load
                    load, rows = [], 0
        except FeatureStoreError:
            if load:
                yield load
            raise
        if load:
            yield load

    def _new(
        self, source: BatchSource, inputs: Sequence[BatchInput], report: IngestReport
    ) -> Iterator[_Part]:
        """Yield the parts of the inputs that the table does not have to their end, from where it has them."""
        positions = self._table.positions(self._table.snapshot())
        known = set(tables.inputs_done(positions))
        for number, item in enumerate(inputs):
            if number == report.inputs:  # not met before another run got in the way
                report.inputs += 1
                report.known_inputs += item.digest in known
            if item.digest in known:
                continue
            known.add(item.digest)
            begun = positions.get(tables.input_position(item.digest), 0)
            if not begun:  # else it was judged by the run that began it
                self._judge(source, item, report)
            for part in self._parts(source, item, begun):
                yield part
                if self._progress is not None:
                    self._progress(part.end - part.begin)

    def _parts(self, source: BatchSource, item: BatchInput, begin: int) -> Iterator[_Part]:
        """Yield the input's rows from number `begin` on, transformed, as they are read; then its end."""
        part = None
        for batch in source.read(item, begin, READ_ROWS):
            frame = pl.from_arrow(pa.Table.from_batches([batch]))
            assert isinstance(frame, pl.DataFrame)
            yield (part := self._transformed(item, frame, begin))
            begin = part.end
        if part is None:
            empty = pl.DataFrame(schema={f.name: f.type.polars() for f in self._plan.source.schema})
            part = self._transformed(item, empty, begin)
        yield _Part(item, begin, begin, True, part.rows.clear(), part.dead.clear(), {}, {})

    def _transformed(self, item: BatchInput, frame: pl.DataFrame, begin: int) -> _Part:
        end = begin + frame.height
        numbered = frame.with_columns(
            pl.lit(item.name, pl.String).alias(plans.PARTITION),
            pl.int_range(begin, end, dtype=pl.Int64).alias(plans.SEQUENCE),
        )
        admitted = admit(self._plan.source, numbered, now=self._clock())
        done = transform(self._plan, admitted.rows)
        dead = pl.concat([admitted.rejected, done.rejected])
        found = {n: c for n, c in _total([admitted.counts, done.counts]).items() if n not in _NO_COUNTS and c}
        found |= dict(dead["code"].value_counts().iter_rows())
        return _Part(item, begin, end, False, done.rows, dead, found, done.checks)

    def _commit(self, parts: Sequence[_Part]) -> pl.DataFrame | None:
        """Commit parts and return their rows; None where another run has come further in an input."""
        begins: dict[str, int] = {}
        positions: dict[str, int] = {}
        for part in parts:
            name = tables.input_position(part.item.digest)
            begins.setdefault(name, part.begin)
            positions[name] = part.end
            if part.is_last:
                positions[tables.input_done(part.item.digest)] = 1
                positions[tables.input_name(part.item.name)] = _stamp(part.item)
        for _, those in groupby(parts, key=lambda part: part.item):
            self._bury(list(those))
        rows = pl.concat([part.rows for part in parts])
        while True:
            snapshot = self._table.snapshot()
            if any(self._table.position(snapshot, name) > begin for name, begin in begins.items()):
                return None
            start = self._table.position(snapshot, tables.BATCH)
            positions[tables.BATCH] = end = start + rows.height
            numbered = rows.with_columns(
                pl.lit(tables.BATCH).alias(plans.PARTITION),
                pl.int_range(start, end, dtype=pl.Int64).alias(plans.SEQUENCE),
            )
            if self._table.append(snapshot, numbered, positions) is not None:
                return numbered

    def _bury(self, parts: Sequence[_Part]) -> None:
        """Write an input's dead letters, unless an earlier try has, or another set those of the source."""
        dead = pl.concat([part.dead for part in parts])
        of_source = pl.col("feature_set").is_null()
        source, name = self._plan.source, tables.input_position(parts[0].item.digest)
        end = parts[-1].end
        self._bury_once(dead.filter(of_source), f"{name}/{source.name}@{source.fingerprint}", end)
        self._bury_once(dead.filter(~of_source), f"{name}/{self._plan.name}", end)

    def _bury_once(self, dead: pl.DataFrame, position: str, end: int) -> None:
        while dead.height:
            snapshot = self._dead.snapshot()
            known = self._dead.position(snapshot, position)
            if known >= end:
                return
            lacking = dead.filter(pl.col("sequence") >= known)
            if self._dead.append(snapshot, lacking.to_arrow(), {position: end}) is not None:
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


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for found in counts:
        for name, number in found.items():
            total[name] = total.get(name, 0) + number
    return total


def _stamp(item: BatchInput) -> int:
    """Return a number that tells an input's contents from others'."""
    return zlib.crc32(item.digest.encode()) + 1
