"""What a whole batch input must be like: columns resolved, and a name for each expectation."""

from __future__ import annotations

from collections.abc import Mapping

from featurestore import plans
from featurestore.compiler.columns import column_type
from featurestore.errors import SpecError
from featurestore.specs.models import Expectation, FeatureSet
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.types import DataType


def compile_expectations(
    feature_set: FeatureSet, columns: Mapping[str, DataType], origin: Origin
) -> tuple[plans.Expectation, ...]:
    """Return the plans of a set's expectations over its columns after the steps. Raises SpecErrors."""
    problems = Problems()
    made: dict[str, plans.Expectation] = {}
    for index, declared in enumerate(feature_set.expectations):
        with problems.collect(origin.where("expectations", index), f"expectations[{index}]"):
            plan = _compile(declared, columns)
            if plan.name in made:
                raise SpecError(
                    f"there is an expectation '{plan.name}' already.", hint="Tell them apart with name:."
                )
            made[plan.name] = plan
    problems.check()
    return tuple(made.values())


def _compile(declared: Expectation, columns: Mapping[str, DataType]) -> plans.Expectation:
    names = declared.unique or ((declared.column,) if declared.column is not None else ())
    types = [column_type(name, columns) for name in names]
    kind = next(k for k in ("rows", "null_share", "mean", "unique") if getattr(declared, k) is not None)
    if kind == "mean" and not (types[0].is_number or types[0].name == "bool"):
        raise SpecError(f"a mean needs a number, and '{names[0]}' is {types[0]}.")
    bounds = getattr(declared, kind)
    low, high = (None, 0.0) if kind == "unique" else (bounds.min, bounds.max)
    name = declared.name or (f"{kind}({', '.join(names)})" if names else kind)
    return plans.Expectation(name, kind, names, low, high, declared.severity)
