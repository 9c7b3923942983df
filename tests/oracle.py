"""The judge of every engine: what DESIGN section 3 says, as plain loops over all rows.

Nothing here is shared with the code under test: no frames, no tiles, no running state, only the standard
library. Every call looks at every row. Slow and obvious on purpose.

A row is a dict: its columns under their names, and the store's own columns

    __key          the entity: anything that compares
    __event_time   int, UTC microseconds: when it happened
    __ingest_time  int, UTC microseconds: when it became known
    __row_hash     int: of the row's bytes, the last tie-break
    __order        optional: rank of the source's order_by value; null comes first
    __event_id     optional: the row's id
    __deleted      optional bool: the row retracts its id or, without ids, ends its entity

Values are Python's: timestamps and dates are ints, decimals are Decimal, null is None. `rows_of` makes such
rows of a frame.

What section 3 leaves open, and what is held here:

- `last_k` gives at most k non-null values, the oldest of them first, as a sequence model reads them; of no
  value at all it is null, as first and last are.
- `count_distinct` counts distinct non-null values; NaN is one value, and so are 0.0 and -0.0.
- `first_k` and `last_k` alike; `top_k` is descending, `bottom_k` and `distinct` ascending, NaN the greatest;
  `mode` of several is the least. All are null of no value, as `histogram` is.
- `min` and `max` take whatever has an order: numbers, text, bytes, booleans, dates, timestamps. `sum`, `avg`,
  moments, percentiles and decaying sums take numbers only; booleans, text and instants are a TypeError.
- `var` and `std` of fewer than two values are null, whatever the one is; `skew` below three, `kurtosis` below
  four. With a NaN or an infinity among enough they are NaN, as the mean or a deviation is.
- `approx_percentile` stands for the value at rank floor(p (n - 1)), counted from 0; with a NaN it is NaN.
- `decay_sum` and `decay_avg` of no value are null. Infinities and NaN in them do not fade.
- Ages, in `seconds_since_first`, `seconds_since_last` and decay, are t less the event time: no offset.
- Infinities of both signs sum to NaN. A sum past the largest float is infinite.
- An integer `sum` outside int64 is null; so is a decimal one of more than 38 digits. `avg`, `var` and `std`
  are floats of the exact quotient: nothing in them overflows an integer.
- Rows of one id are looked for among the visible rows; by `event_time` alone they are visible together.
- A retraction takes its id away wherever it stands among the rows of that id; under `replace` the newest row
  decides, so that a row written after the retraction brings the id back. Without ids a deleted row ends its
  entity: it and what comes before it in order count nowhere.
- `closed: left` moves both edges of a window, [t - W, t), but no ttl: a row is too old when
  `event_time <= t - ttl`, on either side. A deletion at t is not yet seen there either.
- A base row is visible whenever it became known, and counts unless a visible row has its id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Predicate = Callable[[Row], Any]


# Rows


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """Return a frame's rows as the oracle reads them: instants and dates are ints since 1970."""
    return [{name: _natural(value) for name, value in row.items()} for row in frame.to_dicts()]


def _natural(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(value, date):
        return value.toordinal() - date(1970, 1, 1).toordinal()
    return [_natural(item) for item in value] if isinstance(value, list) else value


def order_key(row: Row) -> tuple[Any, ...]:
    """Return what the rows of an entity are ordered by: event time, order_by, ingest time, hash."""
    order = row.get("__order")
    return (
        row["__event_time"],
        (order is not None, order if order is not None else 0),
        row["__ingest_time"],
        row["__row_hash"],
    )


def is_visible(row: Row, t: int, *, as_known: bool = False, closed: str = "right") -> bool:
    """Return whether the row counts at `t`: it has happened and, `as_known`, it has been learnt of."""
    happened = row["__event_time"] < t if closed == "left" else row["__event_time"] <= t
    known = row["__ingest_time"] <= t
    return happened and (known or not as_known)


def same_id(one: Row, other: Row) -> bool:
    """Return whether the two rows are one row by their id."""
    names = ("__key", "__event_time", "__event_id")
    return one.get("__event_id") is not None and all(one[name] == other.get(name) for name in names)


def identified(rows: Iterable[Row], *, on_duplicate: str = "first") -> list[Row]:
    """Return the rows in order, one for each id, without what was retracted or ended."""
    kept: list[Row] = []
    for row in sorted(rows, key=order_key):
        if row.get("__event_id") is None:
            if row.get("__deleted"):
                kept = [other for other in kept if other["__key"] != row["__key"]]
            else:
                kept.append(row)
            continue
        twin = next((index for index, other in enumerate(kept) if same_id(row, other)), None)
        if twin is None:
            kept.append(row)
        elif on_duplicate == "replace" or (row.get("__deleted") and not kept[twin].get("__deleted")):
            kept[twin : twin + 1] = []
            kept.append(row)
    return [row for row in kept if not row.get("__deleted")]


def facts(
    rows: Iterable[Row],
    key: Any,
    t: int,
    *,
    closed: str = "right",
    as_known: bool = False,
    on_duplicate: str = "first",
    base: Row | None = None,
) -> list[Row]:
    """Return the rows of `key` that `t` may count, in order, each id once.

    A base row is added to them, unless one that `t` sees has its id.
    """
    mine = [
        row for row in rows if row["__key"] == key and is_visible(row, t, as_known=as_known, closed=closed)
    ]
    if base is not None and not any(same_id(base, row) for row in mine):
        mine.append(base)
    return identified(mine, on_duplicate=on_duplicate)


# Plain features


def newest(
    rows: Iterable[Row],
    key: Any,
    t: int,
    *,
    ttl: int | None = None,
    closed: str = "right",
    as_known: bool = False,
    on_duplicate: str = "first",
) -> Row | None:
    """Return the newest row of `key` at `t`; None where there is none, or only one past its ttl."""
    mine = facts(rows, key, t, closed=closed, as_known=as_known, on_duplicate=on_duplicate)
    if not mine:
        return None
    last = mine[-1]
    if ttl is not None and last["__event_time"] <= t - ttl:
        return None
    return last


def plain(rows: Iterable[Row], key: Any, t: int, column: str, **options: Any) -> Any:
    """Return the value of a plain feature at `t`: the newest row's, null included."""
    row = newest(rows, key, t, **options)
    return None if row is None else row[column]


# Windows


def in_window(
    event_time: int,
    t: int,
    width: int | None,
    *,
    closed: str = "right",
    granularity: int | None = None,
    offset: int = 0,
) -> bool:
    """Return whether an event at `event_time` is in the window of `width` (None: a lifetime) at `t`."""
    right = t - offset
    if width is None:
        return event_time < right if closed == "left" else event_time <= right
    left = right - width
    if granularity is not None:
        left = left - left % granularity
    if closed == "left":
        return left <= event_time < right
    return left < event_time <= right


def evaluate(
    rows: Iterable[Row],
    key: Any,
    t: int,
    function: str,
    width: int | None,
    *,
    column: str | None = None,
    type: str = "",
    k: int | None = None,
    half_life: int | None = None,
    percentile: float | None = None,
    by: str | None = None,
    value: Any = None,
    where: Predicate | None = None,
    closed: str = "right",
    granularity: int | None = None,
    offset: int = 0,
    as_known: bool = False,
    on_duplicate: str = "first",
    base: Row | None = None,
) -> Any:
    """Return one aggregate of `key` at `t`. `type` names the result's type, for the zero of an empty sum."""
    found = counting_rows(
        facts(rows, key, t, closed=closed, as_known=as_known, on_duplicate=on_duplicate, base=base),
        t,
        width,
        by=by,
        value=value,
        where=where,
        closed=closed,
        granularity=granularity,
        offset=offset,
    )
    return aggregate(
        function,
        values_of(found, column),
        type=type,
        k=k,
        half_life=half_life,
        percentile=percentile,
        ages=ages_of(found, t),
    )


def counting_rows(
    rows: Sequence[Row],
    t: int,
    width: int | None,
    *,
    by: str | None,
    value: Any,
    where: Predicate | None,
    closed: str,
    granularity: int | None,
    offset: int,
) -> list[Row]:
    """Return those of the ordered rows that an aggregation counts."""
    counting = []
    for row in rows:
        if not in_window(
            row["__event_time"], t, width, closed=closed, granularity=granularity, offset=offset
        ):
            continue
        if by is not None and (row[by] is None or row[by] != value):
            continue
        if where is not None and where(row) is not True:
            continue
        counting.append(row)
    return counting


def values_of(rows: Sequence[Row], column: str | None) -> list[Any]:
    """Return what an aggregation sees of rows: values of the column, True for a row without one."""
    return [True if column is None else row[column] for row in rows]


def ages_of(rows: Sequence[Row], t: int) -> list[int]:
    """Return how long before `t` each row happened, in microseconds."""
    return [t - row["__event_time"] for row in rows]


# Functions


def aggregate(
    function: str,
    values: Sequence[Any],
    *,
    type: str = "",
    k: int | None = None,
    half_life: int | None = None,
    percentile: float | None = None,
    ages: Sequence[int] | None = None,
) -> Any:
    """Return `function` of a window's values in order, nulls among them; `ages` are their rows', in µs."""
    present = [_positive_zero(value) for value in values if value is not None]
    old = [age for age, value in zip(ages or [0] * len(values), values, strict=True) if value is not None]
    if function == "count":
        return len(present)
    if function in ("count_distinct", "approx_count_distinct"):
        return len({"NaN" if _is_nan(value) else (0, value) for value in present})
    if function == "first":
        return present[0] if present else None
    if function == "last":
        return present[-1] if present else None
    if function == "last_k":
        assert k is not None
        return present[-k:] or None
    if function == "first_k":
        assert k is not None
        return present[:k] or None
    if function in ("top_k", "bottom_k"):
        assert k is not None
        return _ranked(present, descending=function == "top_k")[:k] or None
    if function == "distinct":
        return _once(_ranked(present)) or None
    if function in ("mode", "histogram"):
        often = [(value, _occurrences(value, present)) for value in _once(_ranked(present))]
        if function == "histogram":
            return dict(often) or None
        most = max((count for _, count in often), default=0)
        return next((value for value, count in often if count == most), None)
    if function == "lag":
        assert k is not None
        return present[-1 - k] if len(present) > k else None
    if function == "seconds_since_first":
        return old[0] / 1_000_000 if old else None
    if function == "seconds_since_last":
        return old[-1] / 1_000_000 if old else None
    if function == "diff":
        assert k is not None
        return _difference(present[-1], present[-1 - k], type) if len(present) > k else None
    if function in ("min", "max"):
        return _extreme(function, present)
    _only_numbers(function, present)
    if function == "sum":
        return _sum(present, type)
    if function == "avg":
        return _average(present)
    if function == "var":
        return _rounded(_variance(present))
    if function == "std":
        return _root(_variance(present))
    if function == "var_pop":
        return _rounded(_variance(present, population=True))
    if function == "std_pop":
        return _root(_variance(present, population=True))
    if function == "skew":
        return _skewness(present)
    if function == "kurtosis":
        return _rounded(_kurtosis(present))
    if function == "approx_percentile":
        assert percentile is not None
        return _at_rank(present, percentile)
    if function in ("decay_sum", "decay_avg"):
        assert half_life is not None
        return _decayed(present, old, half_life, function == "decay_avg")
    raise ValueError(f"the oracle knows no function '{function}'")


def _extreme(function: str, present: list[Any]) -> Any:
    if not present:
        return None
    if any(_is_nan(value) for value in present):
        return math.nan
    best = present[0]
    for value in present:
        if (function == "min" and value < best) or (function == "max" and value > best):
            best = value
    return best


def _only_numbers(function: str, present: list[Any]) -> None:
    for value in present:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            raise TypeError(f"{function} takes numbers, not {value!r}")


def _sum(present: list[Any], type: str) -> Any:
    if not present:
        return _nothing(type)
    if isinstance(present[0], float):
        return _rounded(_float_total(present))
    if isinstance(present[0], Decimal):
        total = Decimal(0)
        for value in present:
            total = Context(prec=200).add(total, value)
        return total if len(total.as_tuple().digits) <= 38 else None
    whole = 0
    for value in present:
        whole += value
    return whole if -(2**63) <= whole < 2**63 else None


def _nothing(type: str) -> Any:
    if type.startswith("float"):
        return 0.0
    return Decimal(0) if type.startswith("decimal") else 0


def _average(present: list[Any]) -> float | None:
    if not present:
        return None
    total = _float_total(present)
    return _rounded(total / len(present) if isinstance(total, Fraction) else total)


def _variance(present: list[Any], *, population: bool = False) -> Fraction | float | None:
    if len(present) < (1 if population else 2):
        return None
    if _is_odd(present):
        return math.nan
    return _powers(present, 2) / (len(present) if population else len(present) - 1)


def _is_odd(present: list[Any]) -> bool:
    return any(_is_nan(value) or _is_infinite(value) for value in present)


def _powers(present: list[Any], power: int) -> Fraction:
    """Return the sum of a power of the deviations from the mean."""
    mean = sum((Fraction(value) for value in present), Fraction(0)) / len(present)
    total = Fraction(0)
    for value in present:
        total += (Fraction(value) - mean) ** power
    return total


def _skewness(present: list[Any]) -> float | None:
    """Return n sqrt(n - 1) / (n - 2) * M3 / M2 ** 1.5."""
    n = len(present)
    if n < 3:
        return None
    if _is_odd(present):
        return math.nan
    second, third = _powers(present, 2), _powers(present, 3)
    if second == 0:
        return 0.0
    size = _root(third**2 * n**2 * (n - 1) / ((n - 2) ** 2 * second**3))
    assert size is not None
    return size if third > 0 else -size


def _kurtosis(present: list[Any]) -> Fraction | float | None:
    """Return n (n + 1) (n - 1) / ((n - 2) (n - 3)) * M4 / M2 ** 2 - 3 (n - 1) ** 2 / ((n - 2) (n - 3))."""
    n = len(present)
    if n < 4:
        return None
    if _is_odd(present):
        return math.nan
    second = _powers(present, 2)
    if second == 0:
        return 0.0
    rest = (n - 2) * (n - 3)
    return n * (n + 1) * (n - 1) * _powers(present, 4) / second**2 / rest - Fraction(3 * (n - 1) ** 2, rest)


def _at_rank(present: list[Any], percentile: float) -> float | None:
    if not present:
        return None
    if any(_is_nan(value) for value in present):
        return math.nan
    rank = Fraction(str(percentile)) * (len(present) - 1)
    return float(sorted(present)[rank.numerator // rank.denominator])


_FINE = Context(prec=60, Emin=-(10**15), Emax=10**15)


def _weight(age: int, half_life: int) -> Decimal:
    halvings = _FINE.divide(Decimal(age), Decimal(half_life))
    return _FINE.power(Decimal(2), -halvings)


def _decayed(present: list[Any], ages: list[int], half_life: int, is_mean: bool) -> float | None:
    if not present:
        return None
    if _is_odd(present):
        whole = _float_total([value for value in present if _is_odd([value])])
        assert isinstance(whole, float)
        return whole
    total, weights = Decimal(0), Decimal(0)
    for value, age in zip(present, ages, strict=True):
        weight = _weight(age, half_life)
        total = _FINE.add(total, _FINE.multiply(Decimal(value), weight))
        weights = _FINE.add(weights, weight)
    return float(_FINE.divide(total, weights) if is_mean else total) + 0.0


def _ranked(present: list[Any], *, descending: bool = False) -> list[Any]:
    """Return the values in order, NaN as the greatest."""
    numbers = sorted((value for value in present if not _is_nan(value)), reverse=descending)
    missing = [value for value in present if _is_nan(value)]
    return missing + numbers if descending else numbers + missing


def _once(ranked: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in ranked:
        if not kept or not same(kept[-1], value):
            kept.append(value)
    return kept


def _occurrences(value: Any, present: list[Any]) -> int:
    return sum(1 for other in present if same(value, other))


def _difference(newest: Any, before: Any, type: str) -> Any:
    if isinstance(newest, float):
        return newest - before + 0.0
    if isinstance(newest, Decimal):
        exact = Context(prec=200).subtract(newest, before)
        return exact if len(exact.as_tuple().digits) <= 38 else None
    _only_numbers("diff", [newest, before])
    if type == "float64":  # of timestamps
        return (newest - before) / 1_000_000
    return newest - before if -(2**63) <= newest - before < 2**63 else None


def _float_total(present: list[Any]) -> Fraction | float:
    """Return the exact sum, or the infinity or NaN that it is."""
    special = [float(value) for value in present if _is_nan(value) or _is_infinite(value)]
    if special:
        mixed = len({value > 0 for value in special}) == 2
        return math.nan if mixed or any(math.isnan(value) for value in special) else special[0]
    total = Fraction(0)
    for value in present:
        total += Fraction(value)
    return total


def _rounded(exact: Fraction | float | None) -> float | None:
    """Return the nearest float; infinity past the largest."""
    if not isinstance(exact, Fraction):
        return exact
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _root(exact: Fraction | float | None) -> float | None:
    if not isinstance(exact, Fraction):
        return exact
    wide = Context(prec=100)
    quotient = wide.divide(Decimal(exact.numerator), Decimal(exact.denominator))
    return float(quotient.sqrt(wide))


def _positive_zero(value: Any) -> Any:
    return 0.0 if isinstance(value, float) and value == 0.0 else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


# How near is equal (DESIGN 3.7)


class Cell(NamedTuple):
    """An expected value, and how far from it an engine's may lie."""

    value: Any
    tolerance: float = 0.0

    def agrees(self, got: Any) -> bool:
        """Return whether `got` is the value: null is null only, NaN is NaN, within the tolerance."""
        return same(self.value, got, self.tolerance)


def same(expected: Any, got: Any, tolerance: float = 0.0) -> bool:
    """Return whether two values are one: null only null, NaN only NaN, lists item by item."""
    if expected is None or got is None:
        return expected is None and got is None
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(got) and all(
            same(one, other, tolerance) for one, other in zip(expected, got, strict=True)
        )
    if isinstance(expected, dict):
        return isinstance(got, dict) and list(expected.items()) == list(got.items())
    if _is_nan(expected) or _is_nan(got):
        return _is_nan(expected) and _is_nan(got)
    if isinstance(expected, bool) != isinstance(got, bool):
        return False
    return bool(expected == got) or (tolerance > 0.0 and abs(expected - got) <= tolerance)


def tolerance(
    function: str,
    values: Sequence[Any],
    *,
    half_life: int | None = None,
    percentile: float | None = None,
    ages: Sequence[int] = (),
) -> float:
    """Return how far a result may lie from the oracle's: 0 but for float sums, moments and approximations.

    It is infinite for moments with |mean| past 1e10 deviations, of which nothing is promised.
    """
    present = [value for value in values if value is not None]
    if function == "approx_count_distinct":
        distinct = aggregate(function, values)
        return 0.0 if distinct <= 511 else 0.08 * distinct
    if function == "approx_percentile" and present:
        assert percentile is not None
        exact = _at_rank(present, percentile)
        return 0.0 if exact is None or _is_odd([exact]) else 0.01 * abs(exact) + 2.0**-1022
    if function in ("decay_sum", "decay_avg") and present:
        assert half_life is not None
        if _is_odd(present):
            return 0.0
        old = [age for age, value in zip(ages, values, strict=True) if value is not None]
        sizes = _decayed([abs(value) for value in present], old, half_life, function == "decay_avg")
        assert sizes is not None
        return 1e-12 * sizes + 2.0**-1022
    if function in ("skew", "kurtosis"):
        return _shape_tolerance(function, present)
    if function not in ("sum", "avg", "var", "std", "var_pop", "std_pop") or not present:
        return 0.0
    if _is_odd(present):
        return 0.0
    if function == "sum" and not isinstance(present[0], float):
        return 0.0
    magnitudes = sum((abs(Fraction(value)) for value in present), Fraction(0))
    if function == "sum":
        return _limit(magnitudes, 1e-15)
    if function == "avg":
        return _limit(magnitudes / len(present), 1e-15)
    variance = _variance(present, population=function.endswith("_pop"))
    if variance is None or variance == 0:
        return 0.0
    if _is_far(present):
        return math.inf
    result = _rounded(variance) if function.startswith("var") else _root(variance)
    return 0.0 if result is None or math.isinf(result) else 1e-9 * result


def _is_far(present: list[Any]) -> bool:
    """Return whether the mean lies more than 1e10 deviations from 0."""
    mean = sum((Fraction(value) for value in present), Fraction(0)) / len(present)
    variance = _powers(present, 2) / len(present)
    return mean**2 > variance * 10**20


def _shape_tolerance(function: str, present: list[Any]) -> float:
    n = len(present)
    if n < (3 if function == "skew" else 4) or _is_odd(present):
        return 0.0
    second = _powers(present, 2)
    if second == 0:
        return 0.0
    if _is_far(present):
        return math.inf
    if function == "kurtosis":
        exact = _kurtosis(present)
        assert exact is not None
        return 1e-9 * (float(exact) + 6 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    mean = sum((Fraction(value) for value in present), Fraction(0)) / n
    cubes = sum((abs(Fraction(value) - mean) ** 3 for value in present), Fraction(0))
    size = _root(cubes**2 * n**2 * (n - 1) / ((n - 2) ** 2 * second**3))
    assert size is not None
    return 1e-9 * size


def _limit(magnitudes: Fraction, share: float) -> float:
    rounded = _rounded(magnitudes)
    return math.inf if rounded is None or math.isinf(rounded) else rounded * share


# Whole feature sets


def _no_predicate(expression: Any) -> Predicate:
    raise ValueError(f"pass predicate=, which turns {expression!r} into a function of a row")


def expected_cells(
    plan: Any,
    rows: Iterable[Row],
    key: Any,
    t: int,
    *,
    as_known: bool = False,
    predicate: Callable[[Any], Predicate] = _no_predicate,
    base: Row | None = None,
) -> dict[str, Cell]:
    """Return every feature of a set for `key` at `t`, in the set's order, with what may deviate.

    `plan` is anything shaped like a SetPlan; `rows` are its rows after the steps. `predicate` turns the
    expression of a `where:` into a function of a row. With a `base` row, plain features come from it.
    """
    rows = list(rows)
    reading = {"as_known": as_known, "on_duplicate": plan.source.on_duplicate}
    if base is None:
        closed = "left" if plan.left_closed else "right"
        row = newest(rows, key, t, ttl=plan.ttl, closed=closed, **reading)
    else:
        row = base
    cells = {field.name: Cell(None if row is None else row[field.name]) for field in plan.plain}
    for column in plan.aggregates:
        closed = "left" if column.window.left_closed else "right"
        counting = counting_rows(
            facts(rows, key, t, closed=closed, base=base, **reading),
            t,
            column.window.width,
            by=column.input.by,
            value=column.input.value,
            where=None if column.input.where is None else predicate(column.input.where),
            closed=closed,
            granularity=column.window.granularity,
            offset=column.window.offset,
        )
        values, ages = values_of(counting, column.input.column), ages_of(counting, t)
        told = {"half_life": column.half_life, "percentile": column.percentile, "ages": ages}
        result = aggregate(column.function, values, type=str(column.type), k=column.k, **told)
        cells[column.name] = Cell(result, tolerance(column.function, values, **told))
    return cells


def expected_vector(plan: Any, rows: Iterable[Row], key: Any, t: int, **options: Any) -> dict[str, Any]:
    """Return every feature of a set for `key` at `t`: the values of `expected_cells`."""
    return {name: cell.value for name, cell in expected_cells(plan, rows, key, t, **options).items()}
