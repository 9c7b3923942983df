"""All aggregation functions by name, and the types of what they give."""

from __future__ import annotations

from typing import Any

from featurestore.aggregates.carriers import carrier, plain_array, plain_values
from featurestore.aggregates.function import Finished, Function, Parameters
from featurestore.aggregates.library import counting, numbers, positions, time
from featurestore.errors import SpecError, did_you_mean
from featurestore.types import DataType

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for module in (counting, numbers, positions, time)
    for function in module.FUNCTIONS
}

_MEANING = {
    "k": "how many values it keeps",
    "half_life": "after how long a value counts half",
    "percentile": "the share of values below the one it gives, such as 0.95",
}


def function_names() -> list[str]:
    """Return the names of all aggregation functions."""
    return list(FUNCTIONS)


def told(function: str, kind: DataType | None, given: dict[str, Any]) -> Parameters:
    """Return what a function is told: those of the parameters given that it has, and its defaults.

    Raises SpecError where one is missing.
    """
    values = {}
    for name, default in FUNCTIONS[function].parameters.items():
        values[name] = default if given.get(name) is None else given[name]
        if values[name] is None:
            raise SpecError(f"{function} needs {name}:, {_MEANING[name]}.")
    return Parameters(kind, **values)


def result_type(
    function: str,
    kind: DataType | None,
    k: int | None = None,
    half_life: int | None = None,
    percentile: float | None = None,
) -> DataType:
    """Return the type of `function` over a column of type `kind` (None: over rows).

    Raises SpecError where there is no such function, it does not take the column, or a parameter is missing.
    """
    found = FUNCTIONS.get(function)
    if found is None:
        raise SpecError(f"'{function}' is no aggregation function.", hint=did_you_mean(function, FUNCTIONS))
    if kind is None and found.needs_column:
        raise SpecError(f"{function} needs a column.", hint="Write column: beside functions:.")
    if kind is not None and not found.accepts(kind):
        raise SpecError(f"{function} needs {found.takes}, found {kind}.")
    return found.result(told(function, kind, {"k": k, "half_life": half_life, "percentile": percentile}))


__all__ = [
    "FUNCTIONS",
    "Finished",
    "Function",
    "Parameters",
    "carrier",
    "function_names",
    "plain_array",
    "plain_values",
    "result_type",
    "told",
]
