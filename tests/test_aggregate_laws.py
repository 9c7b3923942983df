"""The laws of every state: any way to cut rows, merge states and store them gives what the oracle gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity import COLUMNS, PARAMETERS, TYPES, examples, takes
from strategies import values

from featurestore.aggregates import (
    FUNCTIONS,
    Parameters,
    collected,
    moments,
    plain_values,
    ranges,
    result_type,
    states,
    timed,
    told,
)
from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.carriers import carrier, carry
from featurestore.aggregates.layout import Values

ALL = list(FUNCTIONS)
T = 10_000_000_000
"""The instant that is asked about: after all rows."""


@contextmanager
def by_trees(yes: bool) -> Iterator[None]:
    """Reduce by trees over the rows, as where ranges are many and overlap, however few they are."""
    with pytest.MonkeyPatch.context() as patch:
        if yes:
            patch.setattr(states, "_SMALL", 0)
            patch.setattr(collected, "_MERGES", 0)
            patch.setattr(ranges, "OVERLAP", 0)
        yield


@dataclass
class Case:
    """A function over values of a column, with their event times."""

    function: str
    column: str
    given: dict[str, Any]
    values: list[Any]
    times: list[int]

    @property
    def told(self) -> Parameters:
        return told(self.function, TYPES[self.column], self.given)

    def rows(self) -> Values:
        kind = TYPES[self.column]
        carried = [carry(value, kind) for value in self.values]
        dtype = carrier(kind)
        column = object_array(carried) if dtype == "object" else np.array(carried, dtype)
        if dtype == "<f8":
            column = column + 0.0
        return Values.of(column, None, np.array(self.times, np.int64))

    def finish(self, parts: list[Partial]) -> list[Any]:
        size = len(parts[0][0])
        finished = FUNCTIONS[self.function].finish(parts, self.told, np.full(size, T))
        return plain_values(*finished, result_type(self.function, TYPES[self.column], **self.given))

    def check(self, got: Any, low: int, high: int) -> None:
        """Fail where `got` is not what the oracle gives of rows low to high."""
        part, ages = self.values[low:high], [T - time for time in self.times[low:high]]
        given = {name: value for name, value in self.given.items() if name != "k"}
        kind = str(result_type(self.function, TYPES[self.column], **self.given))
        expected = oracle.aggregate(self.function, part, type=kind, ages=ages, **self.given)
        within = oracle.tolerance(self.function, part, ages=ages, **given)
        assert oracle.same(expected, got, within), (expected, got, within, part)


@st.composite
def cases(draw: st.DrawFn, function: str) -> Case:
    column = draw(st.sampled_from([name for name in COLUMNS if takes(function, name)]))
    items = draw(st.lists(values(COLUMNS[column], nulls=False), max_size=30))
    steps = draw(st.lists(st.sampled_from([0, 1, 7_000_001, 60_000_000]), min_size=len(items)))
    times = np.cumsum(steps[: len(items)], dtype=np.int64).tolist()
    given = {name: draw(strategy) for name, strategy in PARAMETERS.get(function, {}).items()}
    return Case(function, column, given, items, times)


@pytest.mark.parametrize("function", ALL)
@given(st.data())
@examples(40)
def test_ranges_of_rows_are_what_the_oracle_says(function: str, data: st.DataObject) -> None:
    case = data.draw(cases(function))
    edge = st.integers(0, len(case.values))
    ranges = data.draw(st.lists(st.tuples(edge, edge), min_size=1, max_size=6))
    low, high = (np.array(side, np.int64) for side in zip(*ranges, strict=True))
    rows = case.rows()
    with by_trees(data.draw(st.booleans())):
        parts = [rows.reduce(state, low, high) for state in FUNCTIONS[function].states(case.told)]
    for got, (start, end) in zip(case.finish(parts), ranges, strict=True):
        case.check(got, start, max(start, end))


@pytest.mark.parametrize("function", ALL)
@given(st.data())
@examples(40)
def test_split_merged_and_stored_states_are_the_whole(function: str, data: st.DataObject) -> None:
    case = data.draw(cases(function))
    size = len(case.values)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=5)))
    edges = np.array([0, *cuts, size])
    rows = case.rows()
    by_combining, by_merging = [], []
    with by_trees(data.draw(st.booleans())):
        for state in FUNCTIONS[function].states(case.told):
            tiles = state.decode(state.encode(rows.reduce(state, edges[:-1], edges[1:])))
            assert state.encode(tiles) == state.encode(state.decode(state.encode(tiles)))
            by_combining.append(state.combine(tiles, np.array([0]), np.array([len(edges) - 1])))
            by_merging.append(merged(state, tiles, data))
    case.check(case.finish(by_combining)[0], 0, size)
    case.check(case.finish(by_merging)[0], 0, size)


def merged(state: Any, tiles: Partial, data: st.DataObject) -> Partial:
    """Return the merge of all tiles, neighbours in any order, with an empty state among them."""
    singles = [tuple(column[i : i + 1] for column in tiles) for i in range(len(tiles[0]))]
    singles.insert(data.draw(st.integers(0, len(singles))), state.empty(1))
    while len(singles) > 1:
        place = data.draw(st.integers(0, len(singles) - 2))
        singles[place : place + 2] = [state.merge(singles[place], singles[place + 1])]
    return singles[0]


@pytest.mark.parametrize("function", ["distinct", "histogram", "mode", "approx_count_distinct", "top_k"])
@given(st.data())
@examples(40)
def test_a_state_of_a_set_is_the_same_bytes_in_any_order(function: str, data: st.DataObject) -> None:
    case = data.draw(cases(function))
    other = Case(function, case.column, case.given, data.draw(st.permutations(case.values)), case.times)
    ends = np.array([0]), np.array([len(case.values)])
    for state in FUNCTIONS[function].states(case.told):
        if state.name != "distinct":  # which keeps the order of appearance
            assert state.encode(case.rows().reduce(state, *ends)) == state.encode(
                other.rows().reduce(state, *ends)
            )


def whole(name: str, column: Array, kind: Any, **given: Any) -> Any:
    """Return a function of all values."""
    parameters = told(name, kind, given)
    rows = Values.of(column, None, np.zeros(len(column), np.int64))
    ends = np.array([0]), np.array([len(column)])
    parts = [rows.reduce(state, *ends) for state in FUNCTIONS[name].states(parameters)]
    return FUNCTIONS[name].finish(parts, parameters, np.zeros(1, np.int64))[0][0]


def in_tiles(name: str, column: Array, kind: Any, tiles: int, **given: Any) -> Any:
    """Return a function of all values, made of tiles of them."""
    parameters = told(name, kind, given)
    rows = Values.of(column, None, np.zeros(len(column), np.int64))
    edges = np.linspace(0, len(column), tiles + 1).astype(np.int64)
    parts = []
    for state in FUNCTIONS[name].states(parameters):
        made = rows.reduce(state, edges[:-1], edges[1:])
        parts.append(state.combine(made, np.array([0]), np.array([tiles])))
    return FUNCTIONS[name].finish(parts, parameters, np.zeros(1, np.int64))[0][0]


FLOAT = TYPES["amount"]
WHOLE = TYPES["whole"]


@pytest.mark.parametrize("tiles", [1, 2, 37])
@pytest.mark.parametrize("name", ["var_pop", "std_pop", "skew", "kurtosis"])
@pytest.mark.parametrize("scale", [1.0, 1e-100, 1e100])
@pytest.mark.parametrize("mean", [0.0, 1e8, 1e10])
def test_moments_hold_for_a_mean_far_above_the_deviation(
    mean: float, scale: float, name: str, tiles: int
) -> None:
    if scale == 1e-100 and name in ("var_pop", "std_pop") and mean:
        scale = 1e-60  # the squares' rounding errors are below the least float
    column = (mean + np.random.default_rng(3).standard_exponential(700)) * scale
    got = in_tiles(name, column, FLOAT, tiles)
    expected = oracle.aggregate(name, column.tolist())
    assert abs(got - expected) <= oracle.tolerance(name, column.tolist())


@pytest.mark.parametrize("tiles", [1, 3, 50])
@pytest.mark.parametrize("value", [0.1, 1e8 + 0.1, 1e300, -7.0, 5e-324])
@pytest.mark.parametrize("name", ["var_pop", "std_pop", "skew", "kurtosis"])
def test_moments_of_equal_values_are_zero(name: str, value: float, tiles: int) -> None:
    assert in_tiles(name, np.full(5000, value), FLOAT, tiles) == 0.0


@pytest.mark.parametrize("tiles", [1, 7])
def test_a_variance_holds_as_long_as_the_squares_do_and_is_infinite_beyond(tiles: int) -> None:
    """The square of the sum leaves the floats long before the squares' sum does."""
    column = np.array([1e152, 2e152] * 350)
    for name in ("var", "var_pop", "std", "std_pop"):
        expected = oracle.aggregate(name, column.tolist())
        assert in_tiles(name, column, FLOAT, tiles) == pytest.approx(expected, rel=1e-9), name
    assert in_tiles("var", column * 1e48, FLOAT, tiles) == math.inf
    assert in_tiles("std", column * 1e48, FLOAT, tiles) == math.inf


def test_an_outlier_at_a_great_distance_leaves_nothing_behind() -> None:
    """1e16 enters a window and leaves it: what it held is not to be seen any more."""
    column = np.array([1.0, 2.0, 4.0, 9.0, 1e16, 1.0, 2.0, 4.0, 9.0])
    state = moments.CentralMoments()
    parts = [state.reduce(column, np.array([0, 2, 5]), np.array([4, 6, 9]))]
    values, _ = FUNCTIONS["kurtosis"].finish(parts, told("kurtosis", FLOAT, {}), np.zeros(3))
    assert values[0] == values[2] == pytest.approx(oracle.aggregate("kurtosis", [1.0, 2.0, 4.0, 9.0]))


def test_integers_past_two_to_the_53_lose_nothing_in_a_variance() -> None:
    column = 10**18 + np.array([0, 10**8, 3 * 10**8, 10**8 + 1], np.int64)
    for name in ("var", "std", "var_pop", "skew", "kurtosis"):
        expected = oracle.aggregate(name, column.tolist())
        assert whole(name, column, WHOLE) == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("count", [511, 512, 5_000, 100_000])
@pytest.mark.parametrize("kind", ["whole", "amount"])
def test_about_as_many_distinct_values_are_counted(kind: str, count: int) -> None:
    """Three standard errors; 511 exactly. Repetition, order and tiles change nothing."""
    random = np.random.default_rng(count)
    column = random.permutation(np.arange(count) * 3 + 1).astype(carrier(TYPES[kind]))
    found = whole("approx_count_distinct", column, TYPES[kind])
    assert found == count if count <= 511 else abs(found - count) <= 3 * 1.04 / 64 * count
    again = random.permutation(np.concatenate([column, column[: count // 2]]))
    assert in_tiles("approx_count_distinct", again, TYPES[kind], 20) == found


def test_estimates_have_the_error_that_is_said() -> None:
    """The root mean square over fifty sets of each size, against 1.6 %."""
    for count in (2_000, 10_000, 40_000):
        errors = []
        for number in range(50):
            column = np.arange(count, dtype=np.int64) + number * 10**9
            errors.append(whole("approx_count_distinct", column, WHOLE) / count - 1)
        assert np.sqrt(np.mean(np.square(errors))) < 1.35 * 1.04 / 64
        assert abs(np.mean(errors)) < 0.008


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("shape", ["lognormal", "normal", "cauchy", "integers"])
def test_percentiles_lie_within_one_in_a_hundred(shape: str, share: float) -> None:
    random = np.random.default_rng(5)
    column = {
        "lognormal": random.lognormal(3, 4, 9999),
        "normal": random.standard_normal(9999),
        "cauchy": random.standard_cauchy(9999) * 1e-200,
        "integers": random.integers(-50, 50, 9999).astype(float),
    }[shape]
    exact = oracle.aggregate("approx_percentile", column.tolist(), percentile=share)
    for found in (
        whole("approx_percentile", column, FLOAT, percentile=share),
        in_tiles("approx_percentile", column, FLOAT, 13, percentile=share),
    ):
        assert abs(found - exact) <= 0.01 * abs(exact)
        assert column.min() <= found <= column.max()


def test_percentiles_of_equal_values_and_at_both_ends_are_exact() -> None:
    assert whole("approx_percentile", np.full(7, 0.3), FLOAT, percentile=0.5) == 0.3
    column = np.array([5e200, 3.0, 1.0, 2.0])
    assert [whole("approx_percentile", column, FLOAT, percentile=p) for p in (0.0, 1.0)] == [1.0, 5e200]
    wide = np.array([-np.inf, -1.0, np.inf])
    assert [whole("approx_percentile", wide, FLOAT, percentile=p) for p in (0.0, 1.0)] == [-np.inf, np.inf]
    assert np.isnan(whole("approx_percentile", np.array([1.0, np.nan]), FLOAT, percentile=0.0))


def test_decay_over_a_thousand_half_lives_neither_overflows_nor_loses_the_newest() -> None:
    second = 1_000_000
    times = np.arange(2000, dtype=np.int64) * second
    rows = Values.of(np.ones(2000), None, times)
    state = timed.Decayed(second)
    ends = np.array([0]), np.array([2000])
    told_ = told("decay_sum", FLOAT, {"half_life": second})
    for parts in ([rows.reduce(state, *ends)], [cut_in_three(state, rows)]):
        assert finish_sum(parts, told_, int(times[-1])) == pytest.approx(2.0, rel=1e-15)
        assert finish_sum(parts, told_, int(times[-1]) + 10 * second) == pytest.approx(2.0**-9, rel=1e-15)
        assert finish_sum(parts, told_, int(times[-1]) + 10**7 * second) == 0.0


def finish_sum(parts: Sequence[Partial], told_: Parameters, t: int) -> Any:
    return FUNCTIONS["decay_sum"].finish(list(parts), told_, np.array([t]))[0][0]


def cut_in_three(state: Any, rows: Values) -> Partial:
    tiles = rows.reduce(state, np.array([0, 3, 1500]), np.array([3, 1500, 2000]))
    combined: Partial = state.combine(tiles, np.array([0]), np.array([3]))
    return combined
