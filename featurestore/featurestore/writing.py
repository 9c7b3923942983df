"""Ingest, materialize: from declared sources to the offline store, and from there online."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import generations, tables
from featurestore.compiler import StepsNotFitted
from featurestore.contracts import BatchSource, OfflineTable, extension
from featurestore.errors import ChecksFailed, RequestError, SpecError, UnknownName, did_you_mean
from featurestore.instants import format_instant
from featurestore.online.writer import OnlineWriter, is_marked, mark
from featurestore.plans import DELETED, SetPlan

if TYPE_CHECKING:
    import polars as pl

    from featurestore.store import FeatureStore

_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".ndjson": "json", ".jsonl": "json"}

Progress = Callable[[int], None]

_STATISTICS_ROWS = 4_000_000
"""Rows whose statistics are merged in memory, before the registry is told."""

log = logging.getLogger(__name__)


def sets_for(store: FeatureStore, name: str) -> list[SetPlan]:
    """Return the live versions of a set, or of all sets of a source. Raises RequestError."""
    live = store.catalog.live_sets()
    found = [plan for plan in live if plan.name == name] or [p for p in live if p.source.name == name]
    if not found:
        _check_fitted(store, name)
        known = [plan.name for plan in live] + [plan.source.name for plan in live]
        raise UnknownName(
            f"There is no applied feature set or source '{name}'.",
            hint=did_you_mean(name, known) if known else "Run: featurestore apply",
        )
    return found


def _check_fitted(store: FeatureStore, name: str) -> None:
    """Raise NotFitted where what is not applied is declared, and awaits a fit."""
    try:
        compiled = store.compiled()
    except SpecError:
        return
    for waiting, error in compiled.unfitted.items():
        source = error.steps.source.name if isinstance(error, StepsNotFitted) and error.steps else None
        if name in (waiting, source):
            raise error


def ingest(
    store: FeatureStore, name: str, data: Any, mode: str | None, progress: Progress | None
) -> list[Any]:
    """Ingest into the sets that `name` stands for; return one report per set version."""
    if mode not in (None, "append"):
        raise RequestError(f"There is no mode '{mode}'.", hint="It is append, or left out.")
    found = sets_for(store, name)
    if any(plan.online for plan in found):
        store.environment.check_online()
    engine = extension("engines", "batch")()
    reports: dict[str, Any] = {}
    result: list[Any] = []
    if data is not None:
        _prepare(store, engine, name, data, mode)
    done: set[tuple[str, str, str]] = set()
    while plans := [plan for plan in sets_for(store, name) if plan.version not in done]:
        # again, for versions that were promoted meanwhile
        done |= {plan.version for plan in plans}
        _ingest_into(store, engine, plans, data, mode, progress, reports, result)
        _ingest_followed(store, engine, name, data, mode)
    return result


def _ingest_followed(store: FeatureStore, engine: Any, name: str, data: Any, mode: str | None) -> None:
    """Bring the same into versions that are about to be promoted: nobody else may, once they follow."""
    for plan in store.catalog.next_sets():
        if name in (plan.name, plan.source.name) and plan.online:
            following = [found for found in generations.fed(store, plan) if found.status == "following"]
            table = store.environment.rows_table(plan)
            if following and (data is not None or plan.source.batch is not None):
                _ingest_one(store, engine, plan, table, data, mode, None)
            for found in following:
                engine.feed(plan, table, OnlineWriter(plan, store.environment.online, found.id))


def _prepare(store: FeatureStore, engine: Any, name: str, data: Any, mode: str | None) -> None:
    """Take data that cannot be read again into the tables of versions that are being filled, too."""
    for plan in store.catalog.next_sets():
        if name in (plan.name, plan.source.name):
            _ingest_one(store, engine, plan, store.environment.rows_table(plan), data, mode, None)


def _ingest_into(
    store: FeatureStore,
    engine: Any,
    plans: Sequence[SetPlan],
    data: Any,
    mode: str | None,
    progress: Progress | None,
    reports: dict[str, Any],
    result: list[Any],
) -> None:
    """Ingest into these versions; reports are by table."""
    for plan in plans:
        table = store.environment.rows_table(plan)
        key = tables.rows_table(plan)
        if key not in reports:
            try:
                reports[key] = _ingest_one(store, engine, plan, table, data, mode, progress)
            except ChecksFailed as error:
                error.report.rows_online += _feed(store, engine, plan, table)  # of inputs before that one
                _record(store, plan, error.report)
                raise
        report = reports[key]
        report.rows_online += _feed(store, engine, plan, table)
        _record(store, plan, report)
        result.append(report)


def ingest_into(store: FeatureStore, plan: SetPlan, data: Any) -> Any:
    """Ingest a frame into one version of a set alone, then online; return its report."""
    engine = extension("engines", "batch")()
    table = store.environment.rows_table(plan)
    report = _ingest_one(store, engine, plan, table, data, None, None)
    report.rows_online += _feed(store, engine, plan, table)
    _record(store, plan, report)
    return report


def _record(store: FeatureStore, plan: SetPlan, report: Any) -> None:
    store.environment.registry.record_ingest(store.environment.project, plan.name, asdict(report))


def _ingest_one(
    store: FeatureStore,
    engine: Any,
    plan: SetPlan,
    table: OfflineTable,
    data: Any,
    mode: str | None,
    progress: Progress | None,
) -> Any:
    from featurestore.registry.statistics import Statistics, describe, merge

    environment = store.environment
    found: dict[str, Statistics] = {}

    def on_rows(rows: pl.DataFrame) -> None:
        if DELETED in rows.columns:
            rows = rows.remove(DELETED)
        if rows.height and plan.plain:
            for name, statistics in describe(rows, plan.plain).items():
                found[name] = merge(found[name], statistics) if name in found else statistics
            if found[plan.plain[0].name].rows >= _STATISTICS_ROWS:
                record()

    def record() -> None:
        if found:
            environment.registry.record_statistics(
                environment.project, plan.name, plan.rows_fingerprint, found
            )
            found.clear()

    def on_checks(rows: int, failed: Mapping[str, int]) -> None:
        environment.registry.record_checks(
            environment.project, plan.name, plan.rows_fingerprint, rows, failed
        )

    source = environment.batch(plan.source) if data is None else given(data, environment.root)
    dead_letters = environment.offline.table(tables.DEAD_LETTERS)
    try:
        return engine.ingest(
            plan,
            source,
            table,
            dead_letters,
            mode=mode,
            on_rows=on_rows,
            on_checks=on_checks,
            progress=progress,
        )
    finally:
        record()


def given(data: Any, root: Path) -> BatchSource:
    """Return the batch source of a frame or of a file's path."""
    if isinstance(data, str | Path):
        kind = _SUFFIXES.get(Path(data).suffix)
        if kind is None:
            raise RequestError(f"'{data}' has no known suffix.", hint=f"Known: {', '.join(_SUFFIXES)}.")
        made: BatchSource = extension("batch", kind)({"kind": kind, "path": str(data), "options": {}}, root)
        return made
    from featurestore.rows.frames import FrameSource

    return FrameSource(data)


def _feed(store: FeatureStore, engine: Any, plan: SetPlan, table: OfflineTable) -> int:
    """Bring ingested rows online: into what serves, follows and is standby, or into a first generation.

    Asks what these are after the rows are committed: who lets a generation follow reads the table after that.
    """
    if not plan.online:
        return 0
    online = store.environment.online
    if generations.serving(store, plan) is None:
        return sum(item.rows for item in _let_serve(store, [plan], None, is_level=False))
    rows = 0
    for found in generations.fed(store, plan):
        writer = OnlineWriter(plan, online, found.id)
        if found.status == "following" or is_marked(online, found.id):
            fed = engine.feed(plan, table, writer)
        elif found.status == "serving":
            fed = engine.fill(plan, table, writer)  # the store lost the generation: all rows, streams' too
            mark(online, found.id)
        else:
            continue
        rows += int(fed.rows) if found.status == "serving" else 0
    return rows


def materialize(store: FeatureStore, name: str, progress: Progress | None) -> list[Any]:
    """Fill and promote a new generation for every live version of the sets that `name` stands for."""
    plans = [plan for plan in sets_for(store, name) if plan.online]
    if not plans:
        raise RequestError(f"'{name}' is not online.", hint="Set online: true, or leave it out.")
    store.environment.check_online()
    for plan in plans:
        table = store.environment.rows_table(plan)
        if (gone := table.forgotten(table.snapshot())) is not None:
            log.warning(
                "Version %s of '%s' lacks rows of its stream that became known before %s:"
                " landing no longer had them.",
                plan.rows_fingerprint,
                plan.name,
                format_instant(gone.before),
            )
    return _let_serve(store, plans, progress)


def _let_serve(
    store: FeatureStore, plans: Sequence[SetPlan], progress: Progress | None, *, is_level: bool = True
) -> list[generations.Filling]:
    """Fill generations of live versions and let each serve; what served is standby, if it has its values."""
    registry = store.environment.registry
    batch = BatchRows(store, progress)
    filled = generations.fill(store, plans, progress, bring=batch.bring, is_level=is_level)
    for item in filled:
        registry.promote(item.id, keep=generations.is_served(store, item.plan))
    store.catalog.forget()
    generations.finish(store, filled, batch.bring)
    generations.drop_unneeded(store)
    return filled


class BatchRows:
    """Brings into a version's table the batch rows that the tables of other versions have."""

    def __init__(self, store: FeatureStore, progress: Progress | None) -> None:
        self._store = store
        self._engine = extension("engines", "batch")()
        self._progress = progress
        self._tried: dict[str, frozenset[str]] = {}

    def bring(self, plan: SetPlan) -> None:
        """Ingest the declared source where other versions have inputs of it that this one's table lacks.

        So a new table gets what the one before has, and one whose ingest was interrupted the rest.
        """
        name = tables.rows_table(plan)
        lacking = self.lacking(plan, all_versions=True)
        if plan.source.batch is None or not lacking - self._tried.get(name, frozenset()):
            return
        self._tried[name] = lacking
        table = self._store.environment.rows_table(plan)
        if table.position(table.snapshot(), tables.BATCH):
            lacking &= self._there(plan)
        if lacking:
            _ingest_one(self._store, self._engine, plan, table, None, None, self._progress)

    def _there(self, plan: SetPlan) -> frozenset[str]:
        """Return the digests of the declared source's inputs; none where the files are gone."""
        try:
            return frozenset(item.digest for item in self._store.environment.batch(plan.source).inputs())
        except RequestError:
            return frozenset()

    def lacking(self, plan: SetPlan, *, all_versions: bool = False) -> frozenset[str]:
        """Return the digests of inputs that live versions of the set, or all, have, and this one has not."""
        offline = self._store.environment.offline
        own = tables.rows_table(plan)
        if all_versions:
            others = [name for name in offline.tables() if name.startswith(f"{plan.name}-")]
        else:
            others = [tables.rows_table(live) for live in self._store.catalog.live_sets(plan.name)]
        had = [self._inputs(name) for name in others if name != own]
        return frozenset().union(*had) - self._inputs(own) if had else frozenset()

    def _inputs(self, table: str) -> frozenset[str]:
        found = self._store.environment.offline.table(table)
        return frozenset(tables.inputs_done(found.positions(found.snapshot())))
