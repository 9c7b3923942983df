"""Fitting: statistics of a vector's own training rows, for its imputes (DESIGN 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.compiler import CompiledProject
from featurestore.compiler.imputes import FitNeed
from featurestore.contracts import extension
from featurestore.environment import Environment
from featurestore.errors import RequestError, did_you_mean
from featurestore.plans import VectorPlan
from featurestore.training import training_rows
from featurestore.types import DataType

if TYPE_CHECKING:
    import polars as pl

    from featurestore.registry.records import Fit
    from featurestore.store import FeatureStore


def fitted_version(environment: Environment, compiled: CompiledProject, name: str) -> Fit | None:
    """Return the newest fit of a vector as it is declared now; None where there is none."""
    error = compiled.unfitted.get(name)
    if error is None or error.plan is None:
        return None
    return environment.registry.latest_fit(environment.project, "FeatureVector", name, error.plan.fingerprint)


def fit(
    store: FeatureStore, compiled: CompiledProject, name: str, until: int | None, rows: Any
) -> dict[str, Any]:
    """Return the statistics by output, once they are stored; see `FeatureStore.fit`."""
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
        result.setdefault(need.output, {})[need.statistic] = fitted
    environment.registry.record_fit(
        environment.project, "FeatureVector", name, plan.fingerprint, until, result
    )
    return result


def _unfitted(compiled: CompiledProject, name: str) -> tuple[VectorPlan, tuple[FitNeed, ...]]:
    error = compiled.unfitted.get(name)
    if error is not None and error.plan is not None:
        return error.plan, error.needs
    if name in compiled.vectors:
        raise RequestError(f"'{name}' has nothing to fit.", hint="Its imputes name no $statistic.")
    raise RequestError(f"There is no vector '{name}'.", hint=did_you_mean(name, compiled.unfitted))


def _statistic(values: pl.Series, kind: DataType, statistic: str) -> Any:
    """Return a statistic of the values that are there, as a row value; None where there are none."""
    values = values.drop_nulls()
    if kind.is_float:
        values = values.drop_nans()
    if kind.name in ("timestamp", "date"):
        values = values.to_physical()
    if not len(values):
        return None
    if statistic == "mode":
        return values.mode().sort()[0]
    found = {"mean": values.mean, "median": values.median, "min": values.min, "max": values.max}[statistic]()
    if isinstance(found, float) and (kind.is_integer or kind.name in ("timestamp", "date")):
        return round(found)
    return found
