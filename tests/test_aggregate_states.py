"""The algebra: every way to reduce rows gives the state that a plain loop gives."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.aggregates import FUNCTIONS, moments, plain_values, ranges, result_type, states, told
from featurestore.aggregates.arrays import object_array
from featurestore.aggregates.exact import RangeSums
from featurestore.errors import SpecError
from featurestore.types import BOOL, FLOAT64, INT64, STRING

FLOATS = st.floats(-1e300, 1e300) | st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e16, -1e16, 1.0, 0.1, 1e-300]
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def exact_sum(values: list[float]) -> float:
    """Return the exactly rounded sum, by fractions; IEEE 754 where a value is not finite."""
    odd = [v for v in values if not math.isfinite(v)]
    return sum(odd) if odd else float(sum(map(Fraction, values), Fraction(0)))


def by_loop(function: str, values: list, k: int):
    """Return a function of values by the plainest means."""
    if function == "count":
        return len(values)
    if function == "sum":
        total = exact_sum(values) if values and isinstance(values[0], float) else sum(values)
        return total if isinstance(total, float) or -(2**63) <= total < 2**63 else None
    if function == "count_distinct":
        return len({"nan" if v != v else v for v in values})
    if not values:
        return None
    if function == "avg":
        if any(not math.isfinite(v) for v in values):
            return sum(v for v in values if not math.isfinite(v))
        return float(sum(map(Fraction, values), Fraction(0)) / len(values))
    if function in ("min", "max"):
        return math.nan if any(v != v for v in values) else (min if function == "min" else max)(values)
    if function in ("first", "last"):
        return values[0 if function == "first" else -1]
    return values[-k:]


def same(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def parameters(function: str, kind):
    return told(function, kind, {"k": 3, "half_life": 60_000_000, "percentile": 0.9})


def finish(function: str, kind, parts, t: int = 0):
    values, found = FUNCTIONS[function].finish(parts, parameters(function, kind), np.array([t]))
    return plain_values(values, found, result_type(function, kind, 3, 60_000_000, 0.9))


@st.composite
def cases(draw):
    """Values of a type, and ranges of them."""
    kind, items = draw(
        st.sampled_from(
            [
                (FLOAT64, FLOATS),
                (INT64, INTEGERS),
                (INT64, st.integers(-3, 3)),
                (STRING, st.sampled_from("abcé")),
            ]
        )
    )
    values = draw(st.lists(items, max_size=40))
    size = len(values)
    edge = st.integers(0, size)
    ranges = draw(st.lists(st.tuples(edge, edge), min_size=1, max_size=6))
    return kind, values, ranges


def carried(kind, values):
    return (
        object_array(values) if kind == STRING else np.array(values, {"float64": "<f8"}.get(kind.name, "<i8"))
    )


@pytest.mark.parametrize("small", [0, 4096])
@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_ranges_of_rows_equal_a_plain_loop(small, case):
    kind, values, ranges = case
    low, high = (np.array(edge, np.int64) for edge in zip(*ranges, strict=True))
    patch = pytest.MonkeyPatch()
    patch.setattr(states, "_SMALL", small)
    try:
        for function in ("count", "sum", "avg", "min", "max", "first", "last", "count_distinct", "last_k"):
            if kind == STRING and function in ("sum", "avg"):
                continue
            parts = [
                state.reduce(carried(kind, values), low, high)
                for state in FUNCTIONS[function].states(parameters(function, kind))
            ]
            expected = [by_loop(function, values[i:j], 3) for i, j in ranges]
            assert all(map(same, finish(function, kind, parts), expected)), function
    finally:
        patch.undo()


@settings(max_examples=150, deadline=None)
@given(case=cases(), cut=st.integers(0, 40), data=st.data())
def test_split_and_merged_tiles_equal_the_whole_through_their_bytes(case, cut, data):
    kind, values, _ = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    edges = [0, *cuts, len(values)]
    for function in ("count", "sum", "avg", "min", "max", "first", "last", "count_distinct", "last_k", "std"):
        if kind == STRING and function in ("sum", "avg", "std"):
            continue
        parts, whole = [], []
        for state in FUNCTIONS[function].states(parameters(function, kind)):
            column = carried(kind, values)
            tiles = state.reduce(column, np.array(edges[:-1]), np.array(edges[1:]))
            tiles = state.decode(state.encode(tiles))
            parts.append(state.combine(tiles, np.array([0]), np.array([len(edges) - 1])))
            whole.append(state.reduce(column, np.array([0]), np.array([len(values)])))
        merged, direct = finish(function, kind, parts)[0], finish(function, kind, whole)[0]
        if function == "std" and merged is not None and merged == merged:
            assert merged == pytest.approx(direct, rel=1e-9)
        else:
            assert same(merged, direct), function


def test_a_sum_forgets_what_has_left_the_window():
    values = np.array([1e16, 1.0, 1.0, -1e16, 3.0] * 2000)
    low = np.arange(len(values))
    high = np.minimum(low + 3, len(values))
    (total, rest) = states.FloatSum().reduce(values, low, high)
    expected = [math.fsum(values[i:j]) for i, j in zip(low, high, strict=True)]
    assert (total + rest).tolist() == expected


def test_sums_fall_back_to_the_tree_where_exponents_lie_far_apart():
    values = np.array([1e300, 1e-300, -1e300] * 2000)
    assert RangeSums.build(values) is None
    (total, rest) = states.FloatSum().reduce(values, np.array([0]), np.array([6000]))
    assert total[0] + rest[0] == pytest.approx(2000e-300)


@pytest.mark.parametrize("mean", [0.0, 1e8, 1e10])
def test_variance_holds_for_means_far_above_the_deviation(mean):
    random = np.random.default_rng(3)
    values = mean + random.standard_normal(5000)
    exact = [Fraction(float(v)) for v in values]
    average = sum(exact) / len(exact)
    variance = float(sum((v - average) ** 2 for v in exact) / (len(exact) - 1))
    [whole] = finish("var", FLOAT64, [moments.Moments().reduce(values, np.array([0]), np.array([5000]))])
    assert whole == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("value", [0.1, 1e8 + 0.1, 1e300, -7.0])
@pytest.mark.parametrize("size", [2, 3, 10_000])
def test_variance_of_equal_values_is_zero(value, size):
    values = np.full(size, value)
    assert finish("var", FLOAT64, [moments.Moments().reduce(values, np.array([0]), np.array([size]))]) == [
        0.0
    ]


def test_variance_needs_two_values_and_is_nan_beside_nan():
    values = np.array([2.0, 6.0, 10.0, math.nan])
    parts = [moments.Moments().reduce(values, np.array([0, 0, 0, 0]), np.array([0, 1, 3, 4]))]
    assert finish("std", FLOAT64, parts)[:3] == [None, None, 4.0]
    assert math.isnan(finish("std", FLOAT64, parts)[3])


def test_an_integer_sum_past_64_bits_is_null_and_comes_back():
    values = np.array([2**63 - 1, 1, -5], np.int64)
    parts = [states.IntegerSum().reduce(values, np.array([0, 0, 1]), np.array([2, 3, 3]))]
    assert finish("sum", INT64, parts) == [None, 2**63 - 5, -4]


def test_booleans_come_back_as_booleans():
    values = np.array([1, 0], np.int64)
    parts = [states.Edge("<i8", True).reduce(values, np.array([0]), np.array([2]))]
    assert finish("last", BOOL, parts) == [False]


def test_a_sum_over_text_is_refused():
    with pytest.raises(SpecError, match="sum needs a number, found string"):
        result_type("sum", STRING)


def test_an_unknown_function_names_the_nearest():
    with pytest.raises(SpecError, match=r"'cuont' is no aggregation function\. Did you mean 'count'"):
        result_type("cuont", INT64)


@pytest.mark.parametrize("spread", [1, 20, 60, 150])
@pytest.mark.parametrize("size", [1, 9, 5000])
def test_sums_over_ranges_are_exact_whatever_the_exponents(size: int, spread: int) -> None:
    random = np.random.default_rng([size, spread])
    for center in (-1000, -300, 0, 40, 900):
        exponents = random.integers(center - spread, center + 1, (2, size))
        top, rest = np.ldexp(random.uniform(-1, 1, (2, size)), exponents)
        rest[random.random(size) < 0.3] = 0.0
        sums = RangeSums.build(top, rest)
        assert sums is not None or spread + 53 > 7 * (61 - (2 * size).bit_length())
        low = random.integers(0, size, 50)
        high = np.minimum(low + random.integers(0, size + 1, 50), size)
        if sums is not None:
            for i, j, total, left in zip(low, high, *sums.total(low, high), strict=True):
                exact = sum((Fraction(float(v)) for v in [*top[i:j], *rest[i:j]]), Fraction(0))
                assert abs(Fraction(float(total)) + Fraction(float(left)) - exact) <= abs(exact) / 2**100
                assert float(total) + float(left) == float(exact)


@pytest.mark.parametrize("kind", ["<f8", "<i8", "<u8"])
@pytest.mark.parametrize("greatest", [True, False])
def test_extremes_over_long_ranges_are_those_of_their_values(kind: str, greatest: bool) -> None:
    """Ranges so long that a table of runs answers them."""
    random = np.random.default_rng(5)
    values = random.integers(0, 10**6, 3000).astype(kind)
    if kind == "<f8":
        values[random.integers(0, 3000, 3)] = np.nan
    low = random.integers(0, 3000, 20_000)
    high = np.minimum(low + random.integers(0, 3000, 20_000), 3000)
    low[:5], high[:5] = [0, 2999, 0, 7, 8], [3000, 3000, 1, 7, 5]
    assert ranges.overlap(int(np.maximum(high - low, 0).sum()), len(values), len(low))
    found, result = states.Extreme(kind, greatest).reduce(values, low, high)
    pick = np.max if greatest else np.min
    for i, j, there, value in list(zip(low, high, found, result, strict=True))[:2000]:
        assert there == (i < j)
        if there:
            assert np.array_equal(value, pick(values[i:j]), equal_nan=kind == "<f8")


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("kind", ["<i8", "<u8"])
def test_sums_of_the_largest_integers_do_not_overflow(kind: str, size: int) -> None:
    edges = np.iinfo(kind)
    values = np.array(([edges.max, edges.min, edges.max, 5] * size)[:size], kind)
    high, low = states.IntegerSum().reduce(values, np.array([0, size]), np.array([size, size]))
    sums = [(int(upper) << 32) + int(lower) for upper, lower in zip(high, low, strict=True)]
    assert sums == [sum(map(int, values)), 0]
