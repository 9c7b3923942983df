"""Comparisons, and what follows from the order of values.

One order, in both lowerings: NaN equals NaN and is greater than every other number, -0.0 equals 0.0,
false is less than true, text goes by code points, binary by bytes. A comparison with null is null.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from featurestore.expressions.functions.base import Example, Function, Macro
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import (
    RuleError,
    Signature,
    comparison,
    need_literal,
    ordered,
)
from featurestore.types import BOOL, INT64

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer
    from featurestore.expressions.to_polars import Lowering


def _plain(argument: Expression) -> bool:
    """Whether Python's own comparison treats the value as we do: no float, or a constant that is no NaN."""
    if not argument.type.is_float:
        return True
    return isinstance(argument, Literal) and argument.value is not None and not math.isnan(argument.value)


def equal_text(call: Call, a: str, b: str) -> str:
    """Return Python for a = b."""
    if any(map(_plain, call.arguments)):
        return f"{a} == {b}"
    return f"({a} == {b} or ({a} != {a} and {b} != {b}))"


def less_text(a: str, b: str, plain_a: bool, plain_b: bool) -> str:
    """Return Python for a < b."""
    if plain_b:
        return f"{a} < {b}"
    return f"({a} < {b} or {b} != {b})" if plain_a else f"({a} < {b} or ({b} != {b} and {a} == {a}))"


def _compare(symbol: str) -> Callable[..., str]:
    def python(_: Writer, call: Call, a: str, b: str) -> str:
        plain_a, plain_b = map(_plain, call.arguments)
        if symbol == "=":
            return equal_text(call, a, b)
        if symbol == "<>":
            return f"not {equal_text(call, a, b)}"
        if symbol == "<":
            return less_text(a, b, plain_a, plain_b)
        if symbol == ">":
            return less_text(b, a, plain_b, plain_a)
        if plain_a and plain_b:
            return f"{a} {symbol} {b}"
        swapped = (b, a, plain_b, plain_a) if symbol == "<=" else (a, b, plain_a, plain_b)
        return f"not {less_text(*swapped)}"

    return python


def _ordered(
    operation: Callable[[Any, Any], Any], mirrored: Callable[[Any, Any], Any]
) -> Callable[..., pl.Expr]:
    """Return the lowering of a comparison, with a constant on the right.

    Polars 2.1 gives one row for a constant on the left of what turns out to be the same in all rows.
    """

    def lower(call: Call, a: pl.Expr, b: pl.Expr) -> pl.Expr:
        swapped = isinstance(call.arguments[0], Literal)
        return mirrored(b, a) if swapped else operation(a, b)  # type: ignore[no-any-return]

    return lower


def _comparison(
    name: str, symbol: str, doc: str, lower: Callable[..., pl.Expr], *examples: Example
) -> Function:
    return Function(
        name,
        f"a {symbol} b",
        doc,
        examples,
        comparison,
        (2, 2),
        _compare(symbol),
        lower,
        text=f"({{0}} {symbol} {{1}})",
    )


def _nullif_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, kind = ordered(arguments)
    return kinds, kind


def _nullif_python(writer: Writer, call: Call) -> str:
    (a, a_again), (b, b_again) = map(writer.bind, call.arguments)
    same_value = equal_text(call, a_again, b_again)
    either = f"({a} is None) | ({b} is None)"
    return f"({a_again} if {either} else None if {same_value} else {a_again})"


def _nullif_polars(call: Call, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    import polars as pl

    differ = _ordered(operator.ne, operator.ne)(call, a, b)
    return pl.when(differ.fill_null(True)).then(a)


def _in_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, _ = ordered(arguments)
    for argument in arguments[1:]:
        value = need_literal(argument, "values that are not null").value
        if isinstance(value, float) and math.isnan(value):
            raise RuleError("NaN cannot be listed; use is_nan(x)")
    return kinds, BOOL


def literals(arguments: tuple[Expression, ...]) -> list[Any]:
    return [argument.value for argument in arguments if isinstance(argument, Literal)]


def _in_python(writer: Writer, call: Call, x: str, *_: str) -> str:
    return f"{x} in {writer.constant(frozenset(literals(call.arguments[1:])))}"


def _in_polars(call: Call, x: pl.Expr, *_: pl.Expr) -> pl.Expr:
    import polars as pl

    from featurestore.expressions.vectors import column

    listed = column(literals(call.arguments[1:]), call.arguments[0].type)
    return x.is_in(pl.lit(listed).implode())


def _known_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, _ = _in_rule(arguments)
    return kinds, kinds[0]


def _known_python(writer: Writer, call: Call, x: str, *_: str) -> str:
    return f"({x} if {x} in {writer.constant(frozenset(literals(call.arguments[1:])))} else overflow())"


def _known_polars(call: Call, x: pl.Expr, *listed: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(_in_polars(call, x, *listed)).then(x)


def _known_rejects(lowering: Lowering, call: Call) -> pl.Expr:
    x = lowering.lower(call.arguments[0])
    return x.is_not_null() & lowering.lower(call).is_null()


def _in_text(call: Call) -> str:
    first, *rest = (argument.sql for argument in call.arguments)
    return f"({first} in ({', '.join(rest)}))"


def _extreme_python(greatest: bool) -> Callable[..., str]:
    def python(_: Writer, call: Call, *arguments: str) -> str:
        if not call.type.is_float:
            return f"{'max' if greatest else 'min'}({', '.join(arguments)})"
        return f"{'greatest' if greatest else 'least'}({', '.join(arguments)})"

    return python


def _extreme_polars(greatest: bool) -> Callable[..., pl.Expr]:
    def lower(call: Call, *arguments: pl.Expr) -> pl.Expr:
        import polars as pl

        if call.type.name == "float64":
            import numpy as np

            from featurestore.expressions.vectors import arrays

            def extreme(*columns: Any) -> Any:
                best = columns[0]
                for other in columns[1:]:
                    low, high = (best, other) if greatest else (other, best)
                    best = np.where((low < high) | (np.isnan(high) & ~np.isnan(low)), other, best)
                return best

            return arrays(extreme, *arguments)
        best = arguments[0]
        for node, other in zip(call.arguments[1:], arguments[1:], strict=True):
            if isinstance(node, Literal):  # to the right, see _ordered
                beats = best < other if greatest else best > other
            else:
                beats = other > best if greatest else other < best
            best = pl.when(beats).then(other).when(beats.is_not_null()).then(best)
        return best

    return lower


def _bin_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, kind = ordered(arguments)
    if not (kind.is_number or kind.name in ("timestamp", "date")):
        raise RuleError(f"needs a number or a time, found {kind}")
    edges = [need_literal(argument, "edges").value for argument in arguments[1:]]
    if any(not low < high for low, high in pairwise(edges)):
        raise RuleError("the edges must rise")
    return kinds, INT64


def _bin_python(writer: Writer, call: Call, x: str, *_: str) -> str:
    index = f"bisect_right({writer.constant(literals(call.arguments[1:]))}, {x})"
    return f"(None if {x} != {x} else {index})" if call.arguments[0].type.is_float else index


def _bin_polars(call: Call, x: pl.Expr, *edges: pl.Expr) -> pl.Expr:
    import polars as pl

    counted = pl.sum_horizontal([(x >= edge).cast(pl.Int64) for edge in edges])
    held = x.is_not_null()
    if call.arguments[0].type.is_float:
        held = held & x.is_not_nan()
    return pl.when(held).then(counted)


def _between(x: Expression, low: Expression, high: Expression) -> Expression:
    from featurestore.expressions.build import call

    return call("and", call("greater_equal", x, low), call("less_equal", x, high))


FUNCTIONS = (
    _comparison(
        "equal",
        "=",
        "Whether they are equal.",
        _ordered(operator.eq, operator.eq),
        Example("a = 1", {"a": 1}, True),
    ),
    _comparison(
        "not_equal",
        "<>",
        "Whether they differ; also !=.",
        _ordered(operator.ne, operator.ne),
        Example("a <> 1", {"a": None}, None),
    ),
    _comparison(
        "less",
        "<",
        "Whether a is less.",
        _ordered(operator.lt, operator.gt),
        Example("a < 'b'", {"a": "a"}, True),
    ),
    _comparison(
        "less_equal",
        "<=",
        "Whether a is less or equal.",
        _ordered(operator.le, operator.ge),
        Example("a <= 1", {"a": 1}, True),
    ),
    _comparison(
        "greater",
        ">",
        "Whether a is greater; NaN is greater than every other number.",
        _ordered(operator.gt, operator.lt),
        Example("a > 1", {"a": float("nan")}, True),
    ),
    _comparison(
        "greater_equal",
        ">=",
        "Whether a is greater or equal.",
        _ordered(operator.ge, operator.le),
        Example("a >= 2", {"a": 1}, False),
    ),
    Function(
        "in",
        "a in (b, …)",
        "Whether a is one of the values; `a not in (…)` is the opposite.",
        (Example("a in ('x', 'y')", {"a": "y"}, True), Example("a not in (1, 2)", {"a": 1}, False)),
        _in_rule,
        (2, None),
        _in_python,
        _in_polars,
        text=_in_text,
    ),
    Function(
        "known",
        "",
        "What `unknown: reject` compiles to: x, one of the values or null; any other rejects the row.",
        (),
        _known_rule,
        (2, None),
        _known_python,
        _known_polars,
        overflows=lambda _: True,
        rejects=_known_rejects,
        is_internal=True,
    ),
    Function(
        "nullif",
        "nullif(a, b)",
        "Null where a equals b, else a.",
        (Example("nullif(a, '?')", {"a": "?"}, None),),
        _nullif_rule,
        (2, 2),
        _nullif_python,
        _nullif_polars,
        strict=False,
        nullable=lambda _: True,
        nulls="a where b is null",
    ),
    Function(
        "least",
        "least(a, b, …)",
        "The least; null where any is null.",
        (Example("least(a, 5)", {"a": 7}, 5),),
        ordered,
        (2, None),
        _extreme_python(False),
        _extreme_polars(False),
    ),
    Function(
        "greatest",
        "greatest(a, b, …)",
        "The greatest; null where any is null, NaN where any is NaN.",
        (Example("greatest(a, 5)", {"a": 7}, 7),),
        ordered,
        (2, None),
        _extreme_python(True),
        _extreme_polars(True),
    ),
    Function(
        "bin",
        "bin(x, edge, …)",
        "How many edges are at or below x; the edges rise and are written out. Null of NaN.",
        (Example("bin(x, 0, 10, 20)", {"x": 10}, 2),),
        _bin_rule,
        (2, None),
        _bin_python,
        _bin_polars,
        gives_null=True,
    ),
)

MACROS = (
    Macro(
        "between",
        "x between low and high",
        "Whether low <= x and x <= high.",
        (Example("x between 1 and 3", {"x": 3}, True),),
        (3, 3),
        _between,
        "null, but false where the other bound decides",
    ),
)
