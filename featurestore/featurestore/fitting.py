"""Fitting: statistics of a set's source rows for its steps, of a vector's training rows for its imputes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from featurestore import tables
from featurestore.compiler import (
    CompiledProject,
    FitNeed,
    NotFitted,
    StepsNotFitted,
    StepsToFit,
    compile_project,
)
from featurestore.compiler.imputes import stored
from featurestore.contracts import extension
from featurestore.environment import Environment
from featurestore.errors import RequestError, UnknownName, did_you_mean
from featurestore.instants import format_instant
from featurestore.plans import VectorPlan
from featurestore.specs import LoadedProject
from featurestore.steps.compiler import compile_steps
from featurestore.steps.tables import folder
from featurestore.training import training_rows
from featurestore.types import DataType
from featurestore.writing import given

if TYPE_CHECKING:
    import polars as pl

    from featurestore.registry.records import Fit
    from featurestore.store import FeatureStore


log = logging.getLogger(__name__)


def fitted_project(
    environment: Environment, loaded: LoadedProject, without: str | None = None
) -> tuple[CompiledProject, dict[str, Fit]]:
    """Return the project compiled with the newest fit of each object as it is declared now, and these fits.

    That of `without` is left out, so that it can be fitted anew.
    """
    found: dict[str, Fit] = {}
    while True:  # what reads a set cannot be compiled, nor its fit be found, before the set's is there
        compiled = compile_project(loaded, {name: fit.values for name, fit in found.items()})
        new = {
            name: fit
            for name, error in compiled.unfitted.items()
            if name not in found
            and name != without
            and (fit := _newest(environment, name, error)) is not None
        }
        if not new:
            return compiled, found
        found |= new


def _newest(environment: Environment, name: str, error: NotFitted) -> Fit | None:
    """Return the newest fit of what awaits one; None where there is none."""
    if isinstance(error, StepsNotFitted) and error.steps is not None:
        kind, fingerprint = "FeatureSet", error.steps.fingerprint
    elif error.plan is not None:
        kind, fingerprint = "FeatureVector", error.plan.fingerprint
    else:
        return None
    return environment.registry.latest_fit(environment.project, kind, name, fingerprint)


def fit(
    store: FeatureStore, compiled: CompiledProject, name: str, until: int | None, rows: Any
) -> dict[str, Any]:
    """Return the statistics by output, once they are stored; see `FeatureStore.fit`."""
    error = compiled.unfitted.get(name)
    if isinstance(error, StepsNotFitted) and error.steps is not None:
        return _fit_set(store, error.steps, until, rows)
    return _fit_vector(store, compiled, name, until, rows)


def _fit_set(store: FeatureStore, steps: StepsToFit, until: int | None, rows: Any) -> dict[str, Any]:
    environment, source = store.environment, steps.source
    engine = extension("engines", "batch")()
    inputs, landing = [], None
    if rows is not None:
        inputs = [given(rows, environment.root)]
    else:
        inputs = [environment.batch(source)] if source.batch is not None else []
        if source.stream is not None:
            landing = environment.offline.table(tables.landing_table(source))
            if (gone := landing.forgotten(landing.snapshot())) is not None:
                log.warning(
                    "The fit of '%s' is without rows of its stream that became known before %s:"
                    " landing no longer has them.",
                    steps.name,
                    format_instant(gone.before),
                )
    fitted = [dict(found) for found in steps.fitted]
    result: dict[str, dict[str, Any]] = {}
    with engine.fitting(source, inputs, landing, until, either_half=rows is not None) as fitting:
        for need, label in zip(steps.needs, steps.labels, strict=True):
            with folder(environment.root):
                before = compile_steps(steps.steps[: need.step], source.schema, fits=fitted)
            values = fitting.fit(before, need.column.name, need.statistics)
            fitted[need.step][need.column.name] = values
            result.setdefault(label, {}).update(values)
    environment.registry.record_fit(
        environment.project, "FeatureSet", steps.name, steps.fingerprint, until, result
    )
    return result


def _fit_vector(
    store: FeatureStore, compiled: CompiledProject, name: str, until: int | None, rows: Any
) -> dict[str, Any]:
    plan, needs = _unfitted(compiled, name)
    environment = store.environment
    engine = extension("engines", "batch")()
    frame = None
    if rows is not None:
        from featurestore.rows.frames import to_polars

        frame = to_polars(rows)
    options = engine.options("event_timestamp", training=training_rows(plan, end=until))
    values = engine.training_set(plan, environment.rows_table, frame, options).to_polars()
    types = {f.name: f.type for f in plan.outputs}
    result: dict[str, dict[str, Any]] = {}
    for need in needs:
        fitted = _statistic(values[need.output], types[need.output], need.statistic)
        if fitted is None:
            raise RequestError(
                f"There is nothing to fit: '{need.output}' of '{name}' has no value.",
                hint="Ingest rows that have one, or give --until or --rows otherwise.",
            )
        result.setdefault(need.output, {})[need.statistic] = fitted
    environment.registry.record_fit(
        environment.project, "FeatureVector", name, plan.fingerprint, until, result
    )
    return result


def _unfitted(compiled: CompiledProject, name: str) -> tuple[VectorPlan, tuple[FitNeed, ...]]:
    error = compiled.unfitted.get(name)
    if error is not None and error.plan is not None:
        return error.plan, error.needs
    if error is not None:
        raise error  # what it reads comes first
    if name in compiled.vectors or name in compiled.sets:
        what = "Its imputes name" if name in compiled.vectors else "Its steps take"
        raise RequestError(f"'{name}' has nothing to fit.", hint=f"{what} no statistic, such as $mean.")
    known = [*compiled.unfitted, *compiled.sets, *compiled.vectors]
    raise UnknownName(f"There is no feature set or vector '{name}'.", hint=did_you_mean(name, known))


def _statistic(values: pl.Series, kind: DataType, statistic: str) -> Any:
    """Return a statistic of the finite values that are there, as JSON has it; None where there are none."""
    values = values.drop_nulls()
    if kind.is_float:
        values = values.filter(values.is_finite())
    if kind.name in ("timestamp", "date"):
        values = values.to_physical()
    if not len(values):
        return None
    if statistic == "mode":
        return stored(values.mode().sort()[0])
    found = {"mean": values.mean, "median": values.median, "min": values.min, "max": values.max}[statistic]()
    if isinstance(found, float) and (kind.is_integer or kind.name in ("timestamp", "date")):
        return round(found)
    return stored(found)
