"""Aggregations of a set: one feature per category, function and window (DESIGN 3.5, 3.6, 4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from featurestore.aggregates import FUNCTIONS, result_type, told
from featurestore.compiler.columns import column_type, duration, positive
from featurestore.compiler.sources import condition
from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions import Expression
from featurestore.instants import parse_duration
from featurestore.plans import AggregateColumn, Input, Window
from featurestore.specs.models import LIFETIME, Aggregation, FeatureSet
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.types import DataType, integer_bounds

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")


def compile_aggregations(
    feature_set: FeatureSet, columns: Mapping[str, DataType], origin: Origin
) -> tuple[AggregateColumn, ...]:
    """Return the aggregated features of a set, in declared order. Raises SpecErrors."""
    problems = Problems()
    made: dict[str, int] = {}
    aggregates: list[AggregateColumn] = []
    for index, declared in enumerate(feature_set.aggregations):
        place = _Place(origin, problems, index)
        for aggregate in _features(declared, feature_set, dict(columns), place):
            with place.collect():
                _check_clash(aggregate, declared, index, made, columns)
            made.setdefault(aggregate.name, index)
            aggregates.append(aggregate)
    problems.check()
    return tuple(aggregates)


@dataclass(frozen=True)
class _Place:
    """Where an aggregation was written, and who collects its mistakes."""

    origin: Origin
    problems: Problems
    index: int

    def collect(self, *path: str) -> AbstractContextManager[None]:
        """Collect what goes wrong at a key of the aggregation."""
        label = ".".join([f"aggregations[{self.index}]", *path])
        return self.problems.collect(self.origin.where("aggregations", self.index, *path), label)


def _features(
    declared: Aggregation, feature_set: FeatureSet, columns: dict[str, DataType], place: _Place
) -> Iterator[AggregateColumn]:
    """Yield the features of one aggregation; what is wrong goes to the place's problems."""
    before = len(place.problems.errors)
    kind: DataType | None = None
    where: Expression | None = None
    if declared.column is not None:
        with place.collect("column"):
            kind = column_type(declared.column, columns)
    if declared.where is not None:
        with place.collect("where"):
            where = condition(declared.where, columns)
    if declared.by is not None:
        with place.collect("by"):
            by_type = column_type(declared.by, columns)
            _check_by(declared.by, by_type)
            with place.collect("values"):
                _check_values(declared, by_type)
    windows = _windows(declared, feature_set, place)
    types: dict[str, DataType] = {}
    if declared.column is None or kind is not None:
        for function in declared.functions:
            with place.collect("functions"):
                if function in types:
                    raise SpecError(f"'{function}' is there twice.", hint="Remove one of the two.")
                types[function] = _result(function, declared, kind, columns)
    given: dict[str, Any] = {}
    for name in ("k", "half_life", "percentile"):
        given[name] = getattr(declared, name)
        if given[name] is None:
            continue
        with place.collect(name):
            if name == "half_life":
                given[name] = positive(given[name])
            if types and not any(name in FUNCTIONS[function].parameters for function in types):
                having = [function.name for function in FUNCTIONS.values() if name in function.parameters]
                raise SpecError(
                    f"none of the functions has {name}:.", hint=f"Those that do: {', '.join(having)}."
                )
    if len(place.problems.errors) > before:
        return
    for value in declared.values or (None,):
        for function, result in types.items():
            parameters = told(function, kind, given)
            for text, window in windows:
                yield AggregateColumn(
                    name=_name(declared, value, function, text),
                    function=function,
                    input=Input(declared.column, kind, where, declared.by, value),
                    window=window,
                    k=parameters.k,
                    type=result,
                    half_life=parameters.half_life,
                    percentile=parameters.percentile,
                )


def _result(
    function: str, declared: Aggregation, kind: DataType | None, columns: Mapping[str, DataType]
) -> DataType:
    """Return the feature's type; an error over a column names it and a column that would do."""
    try:
        return result_type(function, kind, declared.k, _half_life(declared), declared.percentile)
    except SpecError as error:
        known = FUNCTIONS.get(function)
        if known is None or kind is None or known.accepts(kind):
            raise
        fitting = [name for name, other in columns.items() if known.accepts(other)]
        message = f"{error.message.rstrip('.')} in '{declared.column}'."
        raise SpecError(message, hint=did_you_mean(declared.column or "", fitting)) from None


def _half_life(declared: Aggregation) -> int | None:
    return None if declared.half_life is None else parse_duration(declared.half_life)


def _windows(declared: Aggregation, feature_set: FeatureSet, place: _Place) -> list[tuple[str, Window]]:
    """Return the windows by their texts; what is wrong goes to the place's problems."""
    granularity, offset = None, 0
    if declared.granularity is not None:
        with place.collect("granularity"):
            granularity = positive(declared.granularity)
    with place.collect("offset"):
        offset = duration(declared.offset)
    left_closed = (declared.closed or feature_set.closed) == "left"
    windows = []
    for text in declared.windows:
        with place.collect("windows"):
            if text == LIFETIME:  # there is no left edge to round
                windows.append((text, Window(None, left_closed, None, offset)))
            else:
                windows.append((text, Window(positive(text), left_closed, granularity, offset)))
    return windows


def _check_by(column: str, kind: DataType) -> None:
    """Raise SpecError where a column has no categories."""
    if not (kind.is_integer or kind.name in ("string", "bool")):
        message = f"'{column}' is of type {kind}; categories are text, integers or booleans."
        raise SpecError(message, hint="Cast the column in a step, or say what counts with where:.")


def _check_values(declared: Aggregation, kind: DataType) -> None:
    """Raise SpecError where a category is not a value of the `by:` column."""
    for value in declared.values:
        if isinstance(value, bool):
            fits = kind.name == "bool"
        elif isinstance(value, int):
            low, high = integer_bounds(kind) if kind.is_integer else (0, -1)
            fits = low <= value <= high
        else:
            fits = kind.name == "string"
        if not fits:
            shown = f"'{value}'" if isinstance(value, str) else str(value).lower()
            hint = f'Write "{str(value).lower()}" in quotes.' if kind.name == "string" else None
            raise SpecError(f"{shown} is no {kind}, the type of '{declared.by}'.", hint=hint)


def category_name(column: str, value: str | int | bool) -> str:
    """Return how a category reads in a feature's name.

    Text is itself, other characters as underscores; what is no name alone, such as a number, a boolean
    or text that begins with a digit, follows its column: `fraud_1`, `balance_minus_1`.
    """
    if isinstance(value, bool):
        return f"{column}_{str(value).lower()}"
    if isinstance(value, int):
        return f"{column}_{value}" if value >= 0 else f"{column}_minus_{-value}"
    text = re.sub(r"[^A-Za-z0-9_]+", "_", value)
    if not text.strip("_"):
        return f"{column}_{'other' if text else 'blank'}"
    return text if _PLAIN_NAME.match(text) and not text.startswith("__") else f"{column}_{text}"


def _name(declared: Aggregation, value: str | int | bool | None, function: str, window: str) -> str:
    """Return `<column>_<function>_<window>`, with the category or `name:` in place of the column."""
    parts = [declared.name] if declared.name else []
    if value is not None and declared.by is not None:
        parts.append(category_name(declared.by, value))
    elif not parts and declared.column:
        parts.append(declared.column)
    return "_".join([*parts, function, window])


def _check_clash(
    aggregate: AggregateColumn,
    declared: Aggregation,
    index: int,
    made: Mapping[str, int],
    columns: Mapping[str, DataType],
) -> None:
    if aggregate.name in columns:
        raise SpecError(
            f"the feature '{aggregate.name}' is also a column.",
            hint="Give the aggregation a name: of its own.",
        )
    if aggregate.name in made:
        other = made[aggregate.name]
        if other == index:
            hint = "Two categories read alike; give each an aggregation with a name: of its own."
            if any(len(set(told)) < len(told) for told in (declared.values, declared.windows)):
                hint = "Remove one of the two."
            raise SpecError(f"it makes the feature '{aggregate.name}' twice.", hint=hint)
        raise SpecError(
            f"the feature '{aggregate.name}' is already made by aggregations[{other}].",
            hint="Give one of them a name:, which replaces the column in the feature's name.",
        )
