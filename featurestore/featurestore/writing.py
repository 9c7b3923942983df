"""Ingest, materialize: from declared sources to the offline store, and from there online."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import instants, tables
from featurestore.compiler import StepsNotFitted
from featurestore.contracts import BatchSource, OfflineTable, extension
from featurestore.errors import ChecksFailed, RequestError, SpecError, UnknownName, did_you_mean
from featurestore.instants import MINUTE
from featurestore.online.writer import OnlineWriter, is_marked, mark, mark_of
from featurestore.plans import DELETED, SetPlan

if TYPE_CHECKING:
    import polars as pl

    from featurestore.store import FeatureStore

_KEPT = 10 * MINUTE  # how long a generation that no longer serves is kept, for readers and for rollback
_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".ndjson": "json", ".jsonl": "json"}

Progress = Callable[[int], None]


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
    engine = extension("engines", "batch")()
    reports = {}
    result = []
    for plan in sets_for(store, name):
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
    return result


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
    from featurestore.registry.statistics import describe

    environment = store.environment

    def on_rows(rows: pl.DataFrame) -> None:
        if DELETED in rows.columns:
            rows = rows.remove(DELETED)
        if rows.height and plan.plain:
            environment.registry.record_statistics(
                environment.project, plan.name, plan.rows_fingerprint, describe(rows, plan.plain)
            )

    def on_checks(rows: int, failed: Mapping[str, int]) -> None:
        environment.registry.record_checks(
            environment.project, plan.name, plan.rows_fingerprint, rows, failed
        )

    source = environment.batch(plan.source) if data is None else given(data, environment.root)
    dead_letters = environment.offline.table(tables.DEAD_LETTERS)
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
    """Bring ingested rows online: into what serves, or, where nothing does, into a first generation."""
    if not plan.online:
        return 0
    environment = store.environment
    serving = environment.registry.serving_generation(
        environment.project, plan.name, plan.state_fingerprint, environment.online_identity
    )
    if serving is None:
        return int(_new_generation(store, engine, plan, table, None).rows)
    writer = OnlineWriter(plan, environment.online, serving.id)
    if is_marked(environment.online, serving.id):
        return int(engine.feed(plan, table, writer).rows)
    filled = engine.fill(plan, table, writer)  # the store lost the generation: all rows, streams' too
    mark(environment.online, serving.id)
    return int(filled.rows)


def materialize(store: FeatureStore, name: str, progress: Progress | None) -> list[Any]:
    """Fill and promote a new generation for every live version of the sets that `name` stands for."""
    engine = extension("engines", "batch")()
    plans = [plan for plan in sets_for(store, name) if plan.online]
    if not plans:
        raise RequestError(f"'{name}' is not online.", hint="Set online: true, or leave it out.")
    for plan in plans:
        table = store.environment.rows_table(plan)
        if not table.position(table.snapshot(), tables.BATCH) and _had_batch_rows(store, plan):
            _ingest_one(store, engine, plan, table, None, None, progress)  # a new version's table
    return [
        _new_generation(store, engine, plan, store.environment.rows_table(plan), progress) for plan in plans
    ]


def _had_batch_rows(store: FeatureStore, plan: SetPlan) -> bool:
    """Tell whether another version of the set was ingested from the declared source."""
    offline = store.environment.offline
    versions = [offline.table(t) for t in offline.tables() if t.startswith(f"{plan.name}-")]
    return plan.source.batch is not None and any(t.position(t.snapshot(), tables.BATCH) for t in versions)


def _new_generation(
    store: FeatureStore, engine: Any, plan: SetPlan, table: OfflineTable, progress: Progress | None
) -> Any:
    """Fill a generation from the offline rows, bring it level with what serves, and promote it."""
    environment = store.environment
    registry = environment.registry
    cut = tables.row_partitions(table.positions(table.snapshot()))
    made = registry.create_generation(
        environment.project, plan.name, plan.state_fingerprint, environment.online_identity, cut
    )
    writer = OnlineWriter(plan, environment.online, made.id)
    filled = engine.fill(plan, table, writer, progress)
    _catch_up(store, plan, writer)
    mark(environment.online, made.id)
    registry.promote(made.id)
    store.catalog.forget()
    _drop_old(store, plan)
    return filled


def _catch_up(store: FeatureStore, plan: SetPlan, writer: OnlineWriter) -> None:
    """Read what is in the stream, and not in the offline table yet, into a new generation."""
    environment = store.environment
    if plan.source.stream is None:
        return
    serving = environment.registry.serving_generation(
        environment.project, plan.name, plan.state_fingerprint, environment.online_identity
    )
    if serving is None:
        return
    ahead = OnlineWriter(plan, environment.online, serving.id).positions()
    reached = writer.positions()
    ends: dict[str, int] = {}
    for shard, positions in ahead.items():
        for partition, end in positions.items():
            if partition != tables.BATCH and end > reached[shard].get(partition, 0):
                ends[partition] = max(ends.get(partition, 0), end)
    if ends:
        from featurestore.streaming import drain

        drain(store, plan.source.name, ends, extra={plan.state_fingerprint: writer})


def _drop_old(store: FeatureStore, plan: SetPlan) -> None:
    environment = store.environment
    for old in environment.registry.generations(environment.project, plan.name, "retired"):
        if (
            old.store == environment.online_identity
            and old.retired_at is not None
            and old.retired_at < instants.now() - _KEPT
        ):
            environment.online.drop(old.id)
            environment.online.drop(mark_of(old.id))
