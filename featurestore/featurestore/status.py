"""What there is and how fresh it is: `status` and `show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featurestore import instants, tables
from featurestore.errors import OperatorError, UnknownName, did_you_mean
from featurestore.instants import format_duration, format_instant
from featurestore.online.estimate import estimate
from featurestore.online.writer import OnlineWriter
from featurestore.plans import EVENT_TIME, INGEST_TIME, SetPlan, VectorPlan
from featurestore.specs.models import LIFETIME
from featurestore.steps.functions import FunctionChanged
from featurestore.steps.tables import without_rows
from featurestore.tags import LATEST, NEXT

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


def status(store: FeatureStore) -> list[dict[str, Any]]:
    """Return one record per live set version, with its tags; without any, a vector pins it.

    Offline: rows, bytes of files, newest event and ingest times. Online: generation, entities, bytes. Lag:
    events of the stream that the offline table, and the online store, have not applied yet, by partition.
    Behind online: what the offline table has and some shard of the online store lacks; nothing, but for a
    moment after a commit, unless the store has lost writes.
    `lacks_before`, where there is one: of what became known before it landing had lost rows, so the set lacks
    them.
    Checks, where there are any: rows that came, and those that each found wrong.
    """
    tags = _tags(store)
    return [
        _status(store, plan, tags.get((plan.name, plan.rows_fingerprint, plan.state_fingerprint), []))
        for plan in store.catalog.live_sets()
    ]


def _tags(store: FeatureStore) -> dict[tuple[str, str, str], list[str]]:
    """Return the tags of set versions, `latest` first; versions with the same rows and values share them."""
    environment = store.environment
    found: dict[tuple[str, str, str], list[str]] = {}
    for (kind, name), pointers in environment.registry.pointers(environment.project).items():
        for tag, fingerprint in sorted(pointers.items(), key=lambda item: (item[0] != LATEST, item[0])):
            if kind == "FeatureSet" and tag != NEXT:
                try:
                    plan = store.catalog.feature_set(f"{name}@{fingerprint}")
                except FunctionChanged:
                    continue  # it is not kept current either
                key = (plan.name, plan.rows_fingerprint, plan.state_fingerprint)
                found.setdefault(key, []).append(tag)
    return found


def _status(store: FeatureStore, plan: SetPlan, tags: list[str]) -> dict[str, Any]:
    environment = store.environment
    table = environment.rows_table(plan)
    snapshot = table.snapshot()
    record: dict[str, Any] = {
        "feature_set": plan.name,
        "rows_version": plan.rows_fingerprint,
        "state_version": plan.state_fingerprint,
        "tags": tags,
        "rows": 0,
        "newest_event": None,
        "newest_ingest": None,
        "generation": None,
        "entities": None,
        "bytes_online": None,
        "lag_offline": {},
        "lag_online": {},
        "behind_online": {},
    }
    if snapshot is not None:
        record["rows"] = table.rows(snapshot)
        import polars as pl

        newest = (
            table.lazy(snapshot, [EVENT_TIME, INGEST_TIME])
            .select(pl.col(EVENT_TIME, INGEST_TIME).max().dt.epoch("us"))
            .collect()
        )
        for key, column in (("newest_event", EVENT_TIME), ("newest_ingest", INGEST_TIME)):
            value = newest[column][0]
            record[key] = None if value is None else format_instant(value)
        if newest[INGEST_TIME][0] is not None:
            record["age"] = format_duration(
                max(instants.now() - newest[INGEST_TIME][0], 0) // 1_000_000 * 1_000_000
            )
        if (gone := table.forgotten(snapshot)) is not None:
            record["lacks_before"] = format_instant(gone.before)
    writer = None
    if plan.online:
        try:
            generation = store.catalog.serving(plan)
            writer = OnlineWriter(plan, environment.online, generation)
            record["generation"] = generation
            sizes = environment.online.statistics(generation)
            record["entities"], record["bytes_online"] = sizes["entities"], sizes["bytes"]
            record["behind_online"] = _behind(writer, tables.row_partitions(table.positions(snapshot)))
        except OperatorError as error:
            record["online_error"] = str(error)
    if plan.steps.checks:
        record["checks"] = _show_checks(store, plan)
    if plan.source.stream is not None:
        _lag(store, plan, record, writer)
    return record


def _lag(store: FeatureStore, plan: SetPlan, record: dict[str, Any], writer: OnlineWriter | None) -> None:
    table = store.environment.rows_table(plan)
    snapshot = table.snapshot()
    try:
        ends = store.environment.stream(plan.source).ends()
    except OperatorError as error:
        record["stream_error"] = str(error)
        return
    record["lag_offline"] = {name: end - table.position(snapshot, name) for name, end in ends.items()}
    if writer is not None:
        record["lag_online"] = _lag_online(writer, ends)


def _lag_online(writer: OnlineWriter, ends: dict[str, int]) -> dict[str, int]:
    applied = writer.positions().values()
    return {name: end - max(positions.get(name, 0) for positions in applied) for name, end in ends.items()}


def _behind(writer: OnlineWriter, offline: Mapping[str, int]) -> dict[str, int]:
    """Return by partition how many rows' places some shard lacks that the offline table has."""
    reached = writer.positions().values()
    lows = {name: min(positions.get(name, 0) for positions in reached) for name in offline}
    return {name: end - lows[name] for name, end in offline.items() if lows[name] < end}


def gauges(store: FeatureStore) -> dict[str, float]:
    """Return gauges of the live sets.

    `featurestore_lag_events` by feature set and partition: events not applied online yet.
    `featurestore_check_failed_rows` by feature set and check: rows that it found wrong, by the registry.
    `featurestore_upkeep_total`: what upkeep did in this process.
    """
    result = {f'featurestore_upkeep_total{{what="{name}"}}': float(n) for name, n in store.upkept.items()}
    for plan in store.catalog.live_sets():
        if plan.steps.checks:
            for name, found in _show_checks(store, plan).items():
                labels = f'feature_set="{plan.name}",version="{plan.rows_fingerprint}",check="{name}"'
                sample = f'featurestore_check_failed_rows{{{labels},severity="{found["severity"]}"}}'
                result[sample] = float(found["failed"])
        if not plan.online or plan.source.stream is None:
            continue
        try:
            writer = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
            for partition, lag in _lag_online(writer, store.environment.stream(plan.source).ends()).items():
                labels = (
                    f'feature_set="{plan.name}",version="{plan.state_fingerprint}",partition="{partition}"'
                )
                result[f"featurestore_lag_events{{{labels}}}"] = float(lag)
        except OperatorError:
            labels = f'feature_set="{plan.name}",version="{plan.state_fingerprint}"'
            result[f"featurestore_lag_unknown{{{labels}}}"] = 1.0
    return result


def describe_set(plan: SetPlan) -> dict[str, Any]:
    """Return a feature set's keys and features."""
    return {
        "name": plan.name,
        "version": plan.state_fingerprint,
        "source": plan.source.name,
        "online": plan.online,
        "keys": {key.request_column: str(key.type) for key in plan.keys},
        "features": {f.name: str(f.type) for f in plan.features},
    }


def describe_vector(plan: VectorPlan) -> dict[str, Any]:
    """Return what a request of a vector must carry, and what it gets."""
    described: dict[str, Any] = {
        "name": plan.name,
        "version": plan.fingerprint,
        "keys": list(plan.request_keys) if plan.base is None else [],
        "base": None if plan.base is None else plan.base.name,
        "inputs": {f.name: str(f.type) for f in plan.inputs},
        "features": {f.name: str(f.type) for f in plan.outputs},
        "label": None if plan.label is None else plan.label.output,
    }
    if plan.base is not None:
        described["row"] = {f.name: str(f.type) for f in plan.base.source.schema}
    return described


def show(store: FeatureStore, name: str) -> dict[str, Any]:
    """Return an applied object: a set with its schema, graph, statistics and versions, or a vector."""
    known = store.list()
    bare = name.partition("@")[0]
    for kind in ("FeatureSet", "FeatureVector", "Source", "Entity"):
        if bare in known[kind]:
            break
    else:
        everything = [item for names in known.values() for item in names]
        raise UnknownName(f"There is no applied object '{bare}'.", hint=did_you_mean(bare, everything))
    registry, project = store.environment.registry, store.environment.project
    version = registry.resolve(project, kind, name)
    declaration = next(
        item
        for item in version.bundle["declarations"]
        if item.get("kind") == kind and item.get("name") == bare
    )
    shown: dict[str, Any] = {
        "kind": kind,
        "name": bare,
        "fingerprint": version.fingerprint,
        "applied": format_instant(version.created_at),
        "tags": registry.tags(project, kind, bare),
        "versions": [item.fingerprint for item in registry.versions(project, kind, bare)],
        "declaration": without_rows(declaration),
    }
    if kind == "FeatureSet":
        shown |= _show_set(store, store.catalog.feature_set(name))
    elif kind == "FeatureVector":
        plan = store.catalog.vector(name)
        shown |= describe_vector(plan) | {"sets": sorted({lookup.set.name for lookup in plan.lookups})}
    if kind in ("FeatureSet", "FeatureVector"):
        shown["fits"] = _show_fits(store, bare, version.fingerprint)
    return shown


def _show_fits(store: FeatureStore, name: str, fingerprint: str) -> dict[str, dict[str, Any]]:
    """Return what a version takes from data, its own and that of the sets it reads, by name."""
    registry, project = store.environment.registry, store.environment.project
    pins = registry.pins(project, name, fingerprint)
    fits = {} if pins is None else {of: registry.fit(project, fit) for of, fit in pins.fits.items()}
    return {
        of: {
            "id": fit.id,
            "until": None if fit.until is None else format_instant(fit.until),
            "values": dict(fit.values),
        }
        for of, fit in fits.items()
    }


def _show_set(store: FeatureStore, plan: SetPlan) -> dict[str, Any]:
    registry, project = store.environment.registry, store.environment.project
    statistics = registry.statistics(project, plan.name, plan.rows_fingerprint)
    size = estimate(plan)
    return {
        "source": plan.source.name,
        "keys": [{"entity": k.entity, "column": k.column, "type": str(k.type)} for k in plan.keys],
        "source_schema": {f.name: str(f.type) for f in plan.source.schema},
        "features": {f.name: str(f.type) for f in plan.plain},
        "aggregates": {
            a.name: {
                "function": a.function,
                "column": a.input.column,
                "window": LIFETIME if a.window.width is None else format_duration(a.window.width),
            }
            for a in plan.aggregates
        },
        "table": tables.rows_table(plan),
        "bytes_per_entity": {"fixed": size.fixed, "per_row": size.per_row},
        "statistics": {name: found.summary() for name, found in statistics.items()},
        "checks": _show_checks(store, plan),
        "expectations": _show_expectations(store, plan),
    }


def _show_checks(store: FeatureStore, plan: SetPlan) -> dict[str, dict[str, Any]]:
    """Return by check its severity, the rows of ingested batches, and how many of them it found wrong."""
    counts = store.environment.registry.checks(store.environment.project, plan.name, plan.rows_fingerprint)
    shown: dict[str, dict[str, Any]] = {}
    for op in plan.steps.checks:
        found = counts.get(op.name)
        shown[op.name] = {
            "severity": op.severity,
            "rows": 0 if found is None else found.rows,
            "failed": 0 if found is None else found.failed,
        }
    return shown


def _show_expectations(store: FeatureStore, plan: SetPlan) -> dict[str, dict[str, Any]]:
    """Return by expectation its severity, and what it last found."""
    last: dict[str, dict[str, Any]] = {}
    if plan.expectations:
        for ingest in store.environment.registry.ingests(store.environment.project, plan.name):
            for verdict in reversed(ingest.report.get("expectations", [])):
                last.setdefault(verdict["name"], verdict)
    return {
        item.name: {
            "severity": item.severity,
            "input": found["input"] if found else None,
            "is_met": found["is_met"] if found else None,
            "text": found["text"] if found else None,
        }
        for item in plan.expectations
        for found in [last.get(item.name)]
    }
