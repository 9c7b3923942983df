"""Each aggregation function is defined, and gives what its example says: by its states, and by the oracle."""

from __future__ import annotations

import oracle
import pytest

from featurestore.aggregates import FUNCTIONS, Function, result_type
from featurestore.aggregates.reference import gives, parameters_of
from featurestore.types import DataType

ALL = list(FUNCTIONS.values())
NAMES = list(FUNCTIONS)


@pytest.mark.parametrize("function", ALL, ids=NAMES)
def test_the_states_give_what_the_example_says(function: Function) -> None:
    expected = function.example.gives
    assert gives(function.name) == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("function", ALL, ids=NAMES)
def test_the_oracle_gives_what_the_example_says(function: Function) -> None:
    example, told = function.example, parameters_of(function.name)
    if "k" in function.parameters:
        told.setdefault("k", function.parameters["k"])
    size = len(example.values)
    ages = [(example.ago + 60 * (size - 1 - place)) * 1_000_000 for place in range(size)]
    kind = str(result_type(function.name, DataType.parse(example.type), **parameters_of(function.name)))
    found = oracle.aggregate(function.name, example.values, type=kind, ages=ages, **told)
    told.pop("k", None)
    within = oracle.tolerance(function.name, example.values, ages=ages, **told)
    if isinstance(found, float):
        within += 1e-12 * abs(found)  # the example is written as a float
    assert oracle.same(found, example.gives, within)


@pytest.mark.parametrize("function", ALL, ids=NAMES)
def test_no_values_give_what_is_said_of_an_empty_window(function: Function) -> None:
    expected = 0 if function.empty == "0" else None
    assert gives(function.name, ()) == expected
    assert function.empty == "0" or function.empty.startswith("null")


@pytest.mark.parametrize("function", ALL, ids=NAMES)
def test_it_says_what_it_is(function: Function) -> None:
    assert function.doc.endswith(".")
    assert function.takes
    if function.name.startswith("approx_"):
        assert function.bound
        assert function.source
