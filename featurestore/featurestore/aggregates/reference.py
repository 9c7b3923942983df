"""What the functions give of their examples, computed: for the reference and its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurestore.aggregates.arrays import object_array
from featurestore.aggregates.carriers import carrier, carry
from featurestore.aggregates.functions import FUNCTIONS, plain_values, result_type, told
from featurestore.aggregates.layout import Values
from featurestore.instants import MINUTE, SECOND, parse_duration
from featurestore.types import DataType


def parameters_of(name: str) -> dict[str, Any]:
    """Return the parameters of a function's example, durations in microseconds."""
    given = dict(FUNCTIONS[name].example.parameters)
    if "half_life" in given:
        given["half_life"] = parse_duration(given["half_life"])
    return given


def gives(name: str, values: Sequence[Any] | None = None) -> Any:
    """Return what a function gives of its example's values, or of others of their type, a minute apart."""
    function = FUNCTIONS[name]
    example, given = function.example, parameters_of(name)
    values = example.values if values is None else values
    kind = DataType.parse(example.type)
    carried = [carry(value, kind) for value in values]
    column = object_array(carried) if carrier(kind) == "object" else np.array(carried, carrier(kind))
    times = -example.ago * SECOND - MINUTE * np.arange(len(values), dtype=np.int64)[::-1]
    rows = Values.of(column, None, times)
    parameters = told(name, kind, given)
    low, high = np.zeros(1, np.int64), np.array([len(values)])
    parts = [rows.reduce(state, low, high) for state in function.states(parameters)]
    finished = function.finish(parts, parameters, np.zeros(1, np.int64))
    return plain_values(*finished, result_type(name, kind, **given))[0]
