"""What there is and how fresh it is: `status` and `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore import instants, tables
from featurestore.errors import OperatorError, RequestError, did_you_mean
from featurestore.instants import format_duration, format_instant
from featurestore.online.estimate import estimate
from featurestore.online.writer import OnlineWriter
from featurestore.plans import EVENT_TIME, INGEST_TIME, SetPlan, VectorPlan

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


def status(store: FeatureStore) -> list[dict[str, Any]]:
    """Return one record per live set version.

    Offline: rows, bytes of files, newest event and ingest times. Online: generation, entities, bytes. Lag:
    events of the stream that the offline table, and the online store, have not applied yet, by partition.
    """
    return [_status(store, plan) for plan in store.catalog.live_sets()]


def _status(store: FeatureStore, plan: SetPlan) -> dict[str, Any]:
    environment = store.environment
    table = environment.rows_table(plan)
    snapshot = table.snapshot()
    record: dict[str, Any] = {
        "feature_set": plan.name,
        "rows_version": plan.rows_fingerprint,
        "state_version": plan.state_fingerprint,
        "rows": 0,
        "newest_event": None,
        "newest_ingest": None,
        "generation": None,
        "entities": None,
        "bytes_online": None,
        "lag_offline": {},
        "lag_online": {},
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
    writer = None
    if plan.online:
        try:
            generation = store.catalog.serving(plan)
            writer = OnlineWriter(plan, environment.online, generation)
            record["generation"] = generation
            sizes = environment.online.statistics(generation)
            record["entities"], record["bytes_online"] = sizes["entities"], sizes["bytes"]
        except OperatorError as error:
            record["online_error"] = str(error)
    if plan.source.stream is not None:
        _lag(store, plan, record, writer)
    return record


def _lag(store: FeatureStore, plan: SetPlan, record: dict[str, Any], writer: OnlineWriter | None) -> None:
    environment = store.environment
    table = environment.rows_table(plan)
    try:
        source = environment.stream(plan.source)
        snapshot = table.snapshot()
        applied = {} if writer is None else writer.positions()
        for partition in source.partitions():
            reader = source.reader(partition, None)
            try:
                end = reader.end()
            finally:
                reader.close()
            record["lag_offline"][partition] = end - table.position(snapshot, partition)
            if applied:
                record["lag_online"][partition] = end - max(p.get(partition, 0) for p in applied.values())
    except OperatorError as error:
        record["stream_error"] = str(error)


def show(store: FeatureStore, name: str) -> dict[str, Any]:
    """Return an applied object: a set with its schema, graph, statistics and versions, or a vector."""
    known = store.list()
    bare = name.partition("@")[0]
    for kind in ("FeatureSet", "FeatureVector", "Source", "Entity"):
        if bare in known[kind]:
            break
    else:
        everything = [item for names in known.values() for item in names]
        raise RequestError(f"There is no applied object '{bare}'.", hint=did_you_mean(bare, everything))
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
        "declaration": declaration,
    }
    if kind == "FeatureSet":
        shown |= _show_set(store, store.catalog.feature_set(name))
    elif kind == "FeatureVector":
        shown |= _show_vector(store.catalog.vector(name))
    return shown


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
                "window": format_duration(a.window.width),
            }
            for a in plan.aggregates
        },
        "table": tables.rows_table(plan),
        "bytes_per_entity": {"fixed": size.fixed, "per_row": size.per_row},
        "statistics": {name: found.summary() for name, found in statistics.items()},
    }


def _show_vector(plan: VectorPlan) -> dict[str, Any]:
    return {
        "base": None if plan.base is None else plan.base.name,
        "keys": list(plan.request_keys),
        "features": {f.name: str(f.type) for f in plan.outputs},
        "label": None if plan.label is None else plan.label.output,
        "sets": sorted({lookup.set.name for lookup in plan.lookups}),
    }
