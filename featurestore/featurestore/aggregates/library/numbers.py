"""Functions of the numbers in a window: sums, means, moments, percentiles, and the extremes of any order."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from featurestore.aggregates import doubledouble, moments, sketches, states
from featurestore.aggregates.arrays import Array, Partial, object_array
from featurestore.aggregates.carriers import carrier, whole_numbers
from featurestore.aggregates.function import (
    EMPTY_NULL,
    EMPTY_ZERO,
    NUMBERS,
    SCALARS,
    Example,
    Finished,
    Function,
    Parameters,
    is_number,
    is_scalar,
    optional,
)
from featurestore.aggregates.states import State
from featurestore.types import FLOAT64, INT64, DataType

_LARGEST = 10**38
_MOMENT = (
    "within 1e-9 of it for a mean of up to 1e10 deviations, and 0 where all values are equal; a NaN or an"
    " infinity among the values makes it NaN"
)
_SQUARES = "; infinite where the squares' sum is past the largest float"


def total_type(kind: DataType) -> DataType:
    """Return the type of a sum of a type's values, or of their difference."""
    if kind.name == "decimal":
        return DataType("decimal", precision=38, scale=kind.scale)
    return INT64 if kind.is_integer else FLOAT64


def scaled(values: Array, told: Parameters, power: int = 1) -> Array:
    """Return a power of decimals from that of their digits; other numbers as they are."""
    scale = told.column.scale  # 0 but of decimals
    return values / 10.0 ** (power * scale) if scale else values


def _sum_states(told: Parameters) -> tuple[State, ...]:
    if told.column.is_float:
        return (states.FloatSum(),)
    return (states.IntegerSum(),) if carrier(told.column) != "object" else (states.WideSum(),)


def _whole(part: Partial) -> list[int]:
    """Return the sums that states of integers or decimals hold."""
    if len(part) == 2:
        return [(high << 32) + low for high, low in zip(*(c.tolist() for c in part), strict=True)]
    columns = [column.tolist() for column in part]
    return [
        sum(limb << (32 * place) for place, limb in enumerate(limbs)) for limbs in zip(*columns, strict=True)
    ]


def _finish_sum(parts: list[Partial], told: Parameters, _: Array) -> Finished:
    first, second = parts[0][:2]
    if first.dtype.kind == "f":
        return first + second + 0.0, np.ones(len(first), bool)
    if told.column.name == "decimal":
        sums = _whole(parts[0])
        return object_array(sums), np.fromiter((abs(s) < _LARGEST for s in sums), bool, len(sums))
    fits = (first >= -(2**31)) & (first < 2**31)
    return (np.where(fits, first, 0) << 32) + second, fits


def _finish_avg(parts: list[Partial], told: Parameters, _: Array) -> Finished:
    [count] = parts[1]
    found = count > 0
    first, second = parts[0][:2]
    if first.dtype.kind == "f":
        total = (first, second)
    elif told.column.name == "decimal":
        unit = 10**told.column.scale
        pairs = zip(_whole(parts[0]), count.tolist(), strict=True)
        return np.array([s / (n * unit) if n else 0.0 for s, n in pairs], np.float64), found
    else:
        total = doubledouble.two_sum(first * 2.0**32, second.astype(np.float64))
    high, low = doubledouble.divide(total, np.where(found, count, 1).astype(np.float64))
    return high + low + 0.0, found


def _variance(sample: bool, root: bool) -> Callable[[list[Partial], Parameters, Array], Finished]:
    """Return the finish of a variance of the sample or of the population, or of its square root."""
    fewest = 2 if sample else 1

    def finish(parts: list[Partial], told: Parameters, _: Array) -> Finished:
        count, sum_high, sum_low, square_high, square_low, least, greatest = parts[0]
        found = count >= fewest
        size = np.where(found, count, fewest).astype(np.float64)
        total = (sum_high, sum_low)
        mean_part = doubledouble.multiply(total, doubledouble.divide(total, size))
        high, low = doubledouble.add((square_high, square_low), (-mean_part[0], -mean_part[1]))
        high, low = doubledouble.divide((high, low), size - 1 if sample else size)
        value = np.maximum(high + low, 0.0)
        value = np.where(np.isfinite(square_high), value, np.inf)
        value = np.where(np.isfinite(least) & np.isfinite(greatest), value, np.nan)
        value = np.where(least == greatest, np.where(np.isfinite(least), 0.0, np.nan), value)
        return scaled(np.sqrt(value), told) if root else scaled(value, told, 2), found

    return finish


def _skewness(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    count, second, third = parts[0][0], parts[0][4], parts[0][5]
    found = count >= 3
    size = np.where(found, count, 3).astype(np.float64)
    equal = second == 0.0
    with np.errstate(invalid="ignore"):
        value = size * np.sqrt(size - 1) / (size - 2) * (third / np.where(equal, 1.0, second) ** 1.5)
    return np.where(equal, 0.0, value), found


def _kurtosis(parts: list[Partial], _: Parameters, __: Array) -> Finished:
    count, second, fourth = parts[0][0], parts[0][4], parts[0][6]
    found = count >= 4
    size = np.where(found, count, 4).astype(np.float64)
    equal = second == 0.0
    rest = (size - 2) * (size - 3)
    with np.errstate(invalid="ignore"):
        value = size * (size + 1) * (size - 1) * (fourth / np.where(equal, 1.0, second) ** 2) / rest
        value = value - 3.0 * (size - 1) ** 2 / rest
    return np.where(equal, 0.0, value), found


def _percentile(parts: list[Partial], told: Parameters, _: Array) -> Finished:
    assert told.percentile is not None
    share = Fraction(str(told.percentile))
    least, greatest = (_floats(part) for part in parts[1:])
    found = parts[1][0]
    if share in (0, 1):
        return scaled((greatest if share else least) + 0.0, told), found
    values = [
        sketches.at_rank(counts, share.numerator, share.denominator) if there else 0.0
        for counts, there in zip(parts[0][0], found.tolist(), strict=True)
    ]
    return scaled(np.clip(np.array(values, np.float64), least, greatest) + 0.0, told), found


def _floats(part: Partial) -> Array:
    """Return extremes as floats, 0 where there is none; those of decimals in units of the last digit."""
    found, values = part
    result = np.zeros(len(found))
    result[found] = [float(number) for number in whole_numbers(values[found])]
    return result


def _moments(_: Parameters) -> tuple[State, ...]:
    return (moments.Moments(),)


def _central_moments(_: Parameters) -> tuple[State, ...]:
    return (moments.CentralMoments(),)


def _extreme(greatest: bool) -> Callable[[Parameters], tuple[State, ...]]:
    return lambda told: (states.Extreme(carrier(told.column), greatest),)


def _variances() -> tuple[Function, ...]:
    told = {
        "var": ("The variance of the sample: squared deviations from the mean over n - 1.", 16.0),
        "std": ("The square root of `var`.", 4.0),
        "var_pop": ("The variance of the population: squared deviations from the mean over n.", 32 / 3),
        "std_pop": ("The square root of `var_pop`.", (32 / 3) ** 0.5),
    }
    return tuple(
        Function(
            name=name,
            doc=doc,
            empty=EMPTY_NULL if name.endswith("_pop") else "null below two values",
            takes=NUMBERS,
            accepts=is_number,
            states=_moments,
            result=lambda _: FLOAT64,
            finish=_variance(sample=not name.endswith("_pop"), root=name.startswith("std")),
            example=Example((2, 6, 10), gives),
            bound=_MOMENT + _SQUARES,
        )
        for name, (doc, gives) in told.items()
    )


FUNCTIONS = (
    Function(
        name="sum",
        doc=(
            "The sum: of integers as int64, null where it leaves that; of decimals as decimal(38,s), null"
            " past 38 digits; of floats as float64, rounded once, infinite past the largest."
        ),
        empty=EMPTY_ZERO,
        takes=NUMBERS,
        accepts=is_number,
        states=_sum_states,
        result=lambda told: total_type(told.column),
        finish=_finish_sum,
        example=Example((2, 6, 10), 18),
        bound="exact; of floats within 1e-15 of the sum of magnitudes",
        overflows=lambda finished: ~finished[1],  # of no values it is 0, never null
    ),
    Function(
        name="avg",
        doc="The mean as float64. A NaN among the values makes it NaN, infinities of both signs too.",
        empty=EMPTY_NULL,
        takes=NUMBERS,
        accepts=is_number,
        states=lambda told: (*_sum_states(told), states.Count()),
        result=lambda _: FLOAT64,
        finish=_finish_avg,
        example=Example((2, 6, 10), 6.0),
        bound="within 1e-15 of the mean of magnitudes",
    ),
    Function(
        name="min",
        doc="The least value; NaN where one is NaN. Text compares by code points.",
        empty=EMPTY_NULL,
        takes=SCALARS,
        accepts=is_scalar,
        states=_extreme(False),
        result=lambda told: told.column,
        finish=optional,
        example=Example((2, 6, 10), 2),
    ),
    Function(
        name="max",
        doc="The greatest value; NaN where one is NaN. Text compares by code points.",
        empty=EMPTY_NULL,
        takes=SCALARS,
        accepts=is_scalar,
        states=_extreme(True),
        result=lambda told: told.column,
        finish=optional,
        example=Example((2, 6, 10), 10),
    ),
    *_variances(),
    Function(
        name="skew",
        doc="The skewness of the sample, adjusted for its size as pandas does.",
        empty="null below three values",
        takes=NUMBERS,
        accepts=is_number,
        states=_central_moments,
        result=lambda _: FLOAT64,
        finish=_skewness,
        example=Example((1, 1, 4), 3**0.5),
        bound=_MOMENT.replace("of it", "of the mean cubed magnitude of deviations over the cubed deviation"),
        source=(
            "G1 of Joanes and Gill, Comparing measures of sample skewness and kurtosis, 1998:"
            " n sqrt(n-1) / (n-2) * M3 / M2^1.5, with Mk the sum of k-th powers of deviations from the mean"
        ),
    ),
    Function(
        name="kurtosis",
        doc="The excess kurtosis of the sample, adjusted for its size as pandas does; 0 for a normal one.",
        empty="null below four values",
        takes=NUMBERS,
        accepts=is_number,
        states=_central_moments,
        result=lambda _: FLOAT64,
        finish=_kurtosis,
        example=Example((1, 1, 1, 5), 4.0),
        bound=_MOMENT.replace("of it", "of the terms of its difference"),
        source=(
            "G2 of Joanes and Gill, 1998:"
            " n (n+1) (n-1) / ((n-2) (n-3)) * M4 / M2^2 - 3 (n-1)^2 / ((n-2) (n-3))"
        ),
    ),
    Function(
        name="approx_percentile",
        doc=(
            "About the value at rank floor(p (n - 1)) of the values in ascending order, counted from 0, as"
            " float64: `percentile:` is p, 0.5 the median, 0 and 1 exactly the least and the greatest."
            " NaN where one is NaN. The same for the same values, whatever their order."
        ),
        empty=EMPTY_NULL,
        takes=NUMBERS,
        accepts=is_number,
        states=lambda told: (sketches.Buckets(), *_extreme(False)(told), *_extreme(True)(told)),
        result=lambda _: FLOAT64,
        finish=_percentile,
        example=Example((2, 6, 10), 6.03125, parameters={"percentile": 0.5}),
        bound="within 1 % of that value, and never outside of least and greatest",
        source=(
            "counts in buckets of one width between two powers of two, as HdrHistogram has; with the"
            " guarantee of DDSketch (Masson, Rim and Lee, 2019), from the bits of the numbers alone"
        ),
        parameters={"percentile": None},
    ),
)
