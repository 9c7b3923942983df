"""Every aggregation over a few rows, by hand: cut anywhere, its states merge into that of all rows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import oracle
import pytest
from parity import TYPES

from featurestore.aggregates import FUNCTIONS, plain_values, result_type, states, told
from featurestore.aggregates.arrays import Partial, concatenate, object_array
from featurestore.aggregates.carriers import carrier, carry
from featurestore.aggregates.layout import Values
from featurestore.types import DataType

MINUTE = 60_000_000
ALL = np.array([0])


@dataclass(frozen=True)
class Case:
    """A function of values a minute apart, the newest at t, and what it gives.

    `column` is one of parity's, or a type.
    """

    function: str
    column: str
    values: tuple[Any, ...]
    gives: Any
    given: tuple[tuple[str, Any], ...] = ()


def case(function: str, column: str, values: tuple[Any, ...], gives: Any, **given: Any) -> Case:
    return Case(function, column, values, gives, tuple(given.items()))


BIG = 10**8

CASES = [
    case("count", "amount", (2.0, 6.0, 2.0, 9.0), 4),
    case("sum", "amount", (1e16, 1.0, -1e16, 3.0), 4.0),
    case("sum", "amount", (0.1,) * 10, 1.0),
    case("sum", "amount", (1.0, math.inf, -math.inf, 2.0), math.nan),
    case("sum", "amount", (1.0, math.inf, 2.0), math.inf),
    case("sum", "amount", (1.0, math.nan, 2.0), math.nan),
    case("sum", "whole", (2**62, 2**61, -(2**62), 2**33 - 1, 2**33 - 1), 2**61 + 2**34 - 2),
    case("sum", "whole", (2**63 - 1, 1, -2), 2**63 - 2),
    case("sum", "whole", (2**63 - 1, 1), None),
    case("sum", "whole", (-1, -2, -(2**40)), -(2**40) - 3),
    case(
        "sum",
        "decimal(38,2)",
        (Decimal(f"{2**70}.99"), Decimal("0.02"), Decimal("-5.01")),
        Decimal(2**70 - 4),
    ),
    case(
        "sum", "decimal(38,2)", (Decimal(-1), Decimal(f"-{2**66}.5"), Decimal(3)), Decimal(f"-{2**66 - 2}.5")
    ),
    case("avg", "amount", (1e16, 1.0, -1e16, 3.0), 1.0),
    case("avg", "whole", (2**62, 2, -(2**62), 5), 1.75),
    case("min", "amount", (5.0, 3.0, 4.0), 3.0),
    case("max", "amount", (-5.0, -3.0, -4.0), -3.0),
    case("min", "amount", (5.0, math.nan, 4.0), math.nan),
    case("min", "kind", ("b", "é", "c"), "b"),
    case("max", "kind", ("b", "é", "c"), "é"),
    case("var", "amount", (BIG + 0.1, BIG + 2.1, BIG + 4.1), 4.0),
    case("var", "amount", (2.0, math.inf, 4.0), math.nan),
    case("var", "amount", (0.1, 0.1, 0.1), 0.0),
    case("std", "amount", (2.0, 6.0, 10.0), 4.0),
    case("var_pop", "amount", (2.0, 6.0, 10.0, 6.0), 8.0),
    case("skew", "amount", (BIG + 1.0, BIG + 1.0, BIG + 4.0), 3**0.5),
    case("skew", "amount", (4.0, 1.0, 1.0, 9.0, 0.5), 5 * 2 / 3 * 170.01 / 51.2**1.5),
    case("kurtosis", "amount", (1.0, 5.0, 1.0, 1.0), 4.0),
    case("kurtosis", "amount", (BIG + 1.0, BIG + 5.0, BIG + 1.0, BIG + 1.0), 4.0),
    case("first", "whole", (3, 1, 2, 4), 3),
    case("last", "whole", (3, 1, 2, 4), 4),
    case("last", "kind", ("b", "a"), "a"),
    case("first_k", "whole", (3, 1, 2, 4), [3, 1, 2], k=3),
    case("last_k", "whole", (3, 1, 2, 4), [1, 2, 4], k=3),
    case("top_k", "whole", (3, 1, 4, 4, 2), [4, 4, 3], k=3),
    case("bottom_k", "whole", (3, 1, 4, 1, 2), [1, 1, 2], k=3),
    case("count_distinct", "whole", (3, 1, 3, 1, 2), 3),
    case("count_distinct", "amount", (math.nan, 1.0, math.nan, 2.0), 3),
    case("distinct", "whole", (3, 1, 3, 1, 2), [1, 2, 3]),
    case("mode", "kind", ("b", "a", "b", "c", "c", "b"), "b"),
    case("mode", "whole", (3, 1, 3, 1, 2), 1),
    case("histogram", "kind", ("b", "a", "b", "c"), {"a": 1, "b": 2, "c": 1}),
    case("approx_count_distinct", "whole", (3, 1, 3, 1, 2), 3),
    case("approx_percentile", "whole", (1, 1000, 1, 1000, 1), 1 + 1 / 128, percentile=0.5),
    case("approx_percentile", "whole", (7, 1, 7, 7), 7.0, percentile=0.5),
    case("decay_sum", "amount", (8.0, 4.0, 3.0), 7.0, half_life=MINUTE),
    case("decay_avg", "amount", (7.0, 7.0, 7.0), 7.0, half_life=MINUTE),
    case("decay_avg", "amount", (8.0, 4.0, 3.0), 4.0, half_life=MINUTE),
    case("seconds_since_first", "whole", (3, 1, 2), 120.0),
    case("seconds_since_last", "whole", (3, 1, 2), 0.0),
    case("lag", "whole", (3, 1, 2, 4), 2, k=1),
    case("lag", "whole", (3, 1, 2, 4), 1, k=2),
    case("diff", "whole", (3, 1, 2, 4), 2, k=1),
]


class Over:
    """A case's states of any ranges of its rows."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.kind = kind = TYPES.get(case.column) or DataType.parse(case.column)
        self.told = told(case.function, kind, dict(case.given))
        self.states = FUNCTIONS[case.function].states(self.told)
        dtype = carrier(kind)
        items = [carry(value, kind) for value in case.values]
        column = object_array(items) if dtype == "object" else np.array(items, dtype)
        self.rows = Values.of(column, None, np.arange(len(items), dtype=np.int64) * MINUTE)
        self.size = len(items)

    def of(self, state: Any, low: int, high: int) -> Partial:
        """Return the state of rows low to high, as it is stored."""
        made = self.rows.reduce(state, np.array([low]), np.array([high]))
        stored: Partial = state.decode(state.encode(made))
        return stored

    def check(self, parts: list[Partial], where: object) -> None:
        """Fail where what the states of all rows finish to is not what is expected."""
        now = np.array([(self.size - 1) * MINUTE])
        finished = FUNCTIONS[self.case.function].finish(parts, self.told, now)
        kind = result_type(self.case.function, self.kind, **dict(self.case.given))
        [got] = plain_values(*finished, kind)
        close = isinstance(got, float) and self.case.function not in ("sum", "avg", "min", "max")
        within = 1e-9 * abs(got) if close and math.isfinite(got) else 0.0
        assert oracle.same(self.case.gives, got, within), (self.case, where, got)


def named(case: Case) -> str:
    return f"{case.function}-{case.column}-{len(case.values)}-{case.gives}"


@pytest.mark.parametrize("small", [0, 4096], ids=["many", "few"])
@pytest.mark.parametrize("case", CASES, ids=named)
def test_all_rows_at_once(case: Case, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the way for few rows and by that for many."""
    monkeypatch.setattr(states, "_SMALL", small)
    over = Over(case)
    over.check([over.of(state, 0, over.size) for state in over.states], small)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_two_states_merge_wherever_the_rows_are_cut(case: Case) -> None:
    over = Over(case)
    for cut in range(over.size + 1):
        merged = [
            state.merge(over.of(state, 0, cut), over.of(state, cut, over.size)) for state in over.states
        ]
        over.check(merged, cut)


@pytest.mark.parametrize("small", [0, 4096], ids=["many", "few"])
@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_range_of_states_combines(case: Case, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One state per row, or per two, with others before and behind them, and one of no rows among them."""
    monkeypatch.setattr(states, "_SMALL", small)
    over = Over(case)
    for width in (1, 2):
        edges = [*range(0, over.size, width), over.size]
        for before in range(3):
            combined = []
            for state in over.states:
                tiles = [over.of(state, low, high) for low, high in itertools.pairwise(edges)]
                tiles.insert(len(tiles) // 2, state.empty(1))
                others = [over.of(state, 0, 1)] * 2
                laid = concatenate([*others[:before], *tiles, *others])
                combined.append(state.combine(laid, ALL + before, ALL + before + len(tiles)))
            over.check(combined, (width, before))


def test_every_function_has_a_case() -> None:
    assert {case.function for case in CASES} >= set(FUNCTIONS) - {"std_pop"}
