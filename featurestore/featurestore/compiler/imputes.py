"""What takes the place of nulls: constants, and statistics that were fitted (DESIGN 4)."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from featurestore import json_documents
from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions.runtime import Overflow, to_decimal
from featurestore.instants import parse_instant
from featurestore.types import DataType, Field, integer_bounds

EVERY = "*"
_SPELLED = ("binary", "json")
"""Types whose constants are spelled as text: one that stands for every output is not meant for them."""
_EPOCH_DAY = date(1970, 1, 1).toordinal()

Statistics = Mapping[str, Mapping[str, Any]]
"""Of one vector: output to statistic (`mean`, …) to value; None where nothing was there to fit."""


def _is_number(kind: DataType) -> bool:
    return kind.is_number


def _is_ordered(kind: DataType) -> bool:
    return kind.is_number or kind.name in ("date", "timestamp")


STATISTICS: dict[str, Callable[[DataType], bool]] = {
    "mean": _is_number,
    "median": _is_number,
    "mode": lambda kind: not kind.is_nested,
    "min": _is_ordered,
    "max": _is_ordered,
}
"""What `$name` may be, and the types of outputs that it suits."""


@dataclass(frozen=True)
class FitNeed:
    """A statistic of an output that a vector's imputes refer to."""

    output: str
    statistic: str


@dataclass(frozen=True)
class Impute:
    """What an output is given for null: a constant, or a statistic to be fitted."""

    output: Field
    constant: Any = None
    statistic: str | None = None


def compile_impute(declared: Mapping[str, Any], key: str, outputs: Sequence[Field]) -> list[Impute]:
    """Return what one entry of `impute:` gives to which outputs.

    `*` is every output that the value suits and that has no entry of its own; a value which suits none,
    or not the output that is named, is a SpecError.
    """
    types = {field.name: field for field in outputs}
    value = declared[key]
    if key != EVERY:
        if key not in types:
            raise SpecError(f"the vector has no output '{key}'.", hint=did_you_mean(key, types))
        return [_impute(types[key], value)]
    chosen = []
    problem: SpecError | None = None
    for field in outputs:
        if field.name in declared:
            continue
        try:
            impute = _impute(field, value)
            if impute.statistic is None and field.type.name in _SPELLED:
                raise SpecError(f"'{field.name}' is of type {field.type}, which '*' does not reach.")
            chosen.append(impute)
        except SpecError as error:
            problem = error
    if not chosen and problem is not None:
        raise SpecError(f"{value!r} suits no output. {problem.message}", hint=problem.hint)
    return chosen


def _impute(field: Field, value: Any) -> Impute:
    if isinstance(value, str) and value.startswith("$") and not value.startswith("$$"):
        name = value[1:]
        if name not in STATISTICS:
            hint = did_you_mean(value, [f"${known}" for known in STATISTICS])
            raise SpecError(f"'{value}' is no statistic.", hint=hint)
        if not STATISTICS[name](field.type):
            raise SpecError(
                f"'{field.name}' is of type {field.type}, which has no {name}.",
                hint=did_you_mean(
                    value, [f"${known}" for known, fits in STATISTICS.items() if fits(field.type)]
                ),
            )
        return Impute(field, statistic=name)
    if isinstance(value, str) and value.startswith("$$"):
        value = value[1:]
    return Impute(field, constant=constant(value, field.type, field.name))


def stored(value: Any) -> Any:
    """Return a statistic as JSON has it, and `fitted` reads it: decimals as text, bytes as base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, Decimal) else value


def fitted(value: Any, kind: DataType) -> Any:
    """Return a fitted statistic as a value of an output's type; integers half to even, within its range.

    None where there was nothing to fit, or the statistic is infinite or NaN and the type has no such value.
    """
    if value is None:
        return None
    if isinstance(value, float) and not kind.is_float and not math.isfinite(value):
        return None
    if kind.is_integer:
        low, high = integer_bounds(kind)
        return min(max(round(value), low), high)  # the mean of the largest may round up
    if kind.name in ("date", "timestamp") and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind.name == "decimal" and not isinstance(value, str):
        return to_decimal(Decimal(str(value)), kind.precision, kind.scale)
    return constant(value, kind, "a fitted value")


def constant(value: Any, kind: DataType, name: str) -> Any:
    """Return a declared constant as a row value of a type: instants in microseconds, dates in days.

    Raises SpecError where the value is of another type or out of its range.
    """
    try:
        result = _converted(value, kind)
    except (ValueError, InvalidOperation, Overflow, OverflowError):
        result = None
    if result is None:
        shown = f"'{value}'" if isinstance(value, str) else str(value)
        raise SpecError(f"{shown} is no {kind}, the type of '{name}'.")
    return result


def _converted(value: Any, kind: DataType) -> Any:
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if kind.is_integer and is_number and value == value // 1:
        low, high = integer_bounds(kind)
        return int(value) if low <= value <= high else None
    if kind.is_float and is_number:
        with np.errstate(over="ignore"):
            real = float(np.float32(value)) if kind.name == "float32" else float(value)
        return real + 0.0 if math.isfinite(real) else None
    if kind.name == "decimal" and (is_number or isinstance(value, str)):
        number = Decimal(str(value))
        exact = to_decimal(number, kind.precision, kind.scale)
        return exact if exact == number else None
    if kind.name == "bool" and isinstance(value, bool):
        return value
    if kind.name == "string" and isinstance(value, str):
        return value
    if kind.name == "binary" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if kind.name == "json" and isinstance(value, (str, list, tuple, dict)):
        return json_documents.canonical(value) if isinstance(value, str) else json_documents.of_value(value)
    if kind.name == "date" and isinstance(value, str):
        return date.fromisoformat(value).toordinal() - _EPOCH_DAY
    if kind.name == "timestamp" and isinstance(value, str):
        return parse_instant(value)
    if kind.name == "list" and kind.item is not None and isinstance(value, (list, tuple)):
        items = [_converted(item, kind.item) for item in value]
        return None if None in items else items
    if kind.name == "vector" and kind.item is not None and isinstance(value, (list, tuple)):
        items = [_converted(item, kind.item) for item in value]
        return None if None in items or len(items) != kind.size else items
    return None
