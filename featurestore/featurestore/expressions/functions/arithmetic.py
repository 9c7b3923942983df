"""+ - * / % and the sign: int64 where both sides are integers, else float64 (DESIGN 3.15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import arithmetic, floats
from featurestore.types import INT64, integer_bounds

if TYPE_CHECKING:
    import polars as pl

LOW, HIGH = integer_bounds(INT64)
Bounds = tuple[int, int]


def bounds(expression: Expression) -> Bounds:
    """Return the least and greatest value that an integer expression may have, overflow aside."""
    if isinstance(expression, Literal):
        return (0, 0) if expression.value is None else (expression.value, expression.value)
    if isinstance(expression, Call) and expression.function in _RANGES:
        low, high = _RANGES[expression.function](*map(bounds, expression.arguments))
        return max(low, LOW), min(high, HIGH)
    return integer_bounds(expression.type)


def _corners(a: Bounds, b: Bounds) -> Bounds:
    products = [x * y for x in a for y in b]
    return min(products), max(products)


_RANGES: dict[str, Callable[..., Bounds]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "subtract": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "multiply": _corners,
    "negate": lambda a: (-a[1], -a[0]),
    "abs": lambda a: (0, max(abs(a[0]), abs(a[1]))),
}


def overflows(call: Call) -> bool:
    """Return whether an integer operation may leave int64."""
    if not call.type.is_integer:
        return False
    if any(isinstance(a, Literal) and a.value is None for a in call.arguments):
        return False
    low, high = _RANGES[call.function](*map(bounds, call.arguments))
    return low < LOW or high > HIGH


def _wide(operation: Callable[..., Any]) -> Callable[..., pl.Expr]:
    """Return the lowering of an integer operation: in 128 bits, null where the result leaves int64."""

    def lower(call: Call, *arguments: pl.Expr) -> pl.Expr:
        if not overflows(call):
            return operation(*arguments)  # type: ignore[no-any-return]
        import polars as pl

        wide = operation(*(argument.cast(pl.Int128) for argument in arguments))
        return wide.cast(pl.Int64, strict=False)  # type: ignore[no-any-return]

    return lower


def _remainder(call: Call, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    import polars as pl

    if call.type.is_integer:
        rest = a % pl.when(b != 0).then(b)
        return pl.when((rest != 0) & ((rest < 0) != (a < 0))).then(rest - b).otherwise(rest)

    import numpy as np

    from featurestore.expressions.vectors import arrays

    def remainder(x: Any, y: Any) -> Any:
        with np.errstate(invalid="ignore"):
            return np.fmod(x, y)

    return pl.when(b != 0).then(arrays(remainder, a, b))


def _remainder_python(_: Any, call: Call, a: str, b: str) -> str:
    return f"{'whole_' if call.type.is_integer else ''}remainder({a}, {b})"


def _divide(_: Call, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import quotient

    return quotient(a, b)


def _operator(name: str, symbol: str, doc: str, example: Example, operation: Callable[..., Any]) -> Function:
    return Function(
        name,
        f"a {symbol} b",
        doc,
        (example,),
        arithmetic,
        (2, 2),
        f"{{0}} {symbol} {{1}}",
        _wide(operation),
        overflows=overflows,
        checked=True,
        text=f"({{0}} {symbol} {{1}})",
    )


FUNCTIONS = (
    _operator("add", "+", "The sum.", Example("a + b", {"a": 1, "b": 2}, 3), lambda a, b: a + b),
    _operator("subtract", "-", "The difference.", Example("a - 0.5", {"a": 2}, 1.5), lambda a, b: a - b),
    _operator("multiply", "*", "The product.", Example("a * b", {"a": 3, "b": -2}, -6), lambda a, b: a * b),
    Function(
        "divide",
        "a / b",
        "The quotient, always float64; null where b is 0.",
        (Example("a / b", {"a": 7, "b": 2}, 3.5), Example("a / b", {"a": 7, "b": 0}, None)),
        floats,
        (2, 2),
        "({0} / {1} if {1} else None)",
        _divide,
        gives_null=True,
        text="({0} / {1})",
    ),
    Function(
        "remainder",
        "a % b",
        "The remainder of the division, with the sign of a; null where b is 0.",
        (Example("a % b", {"a": -7, "b": 3}, -1), Example("a % b", {"a": 7.5, "b": 2.0}, 1.5)),
        arithmetic,
        (2, 2),
        _remainder_python,
        _remainder,
        gives_null=True,
        text="({0} % {1})",
    ),
    Function(
        "negate",
        "-a",
        "The opposite number.",
        (Example("-a", {"a": 5}, -5),),
        arithmetic,
        (1, 1),
        "-{0}",
        _wide(lambda a: 0 - a),
        overflows=overflows,
        checked=True,
        text="(-{0})",
    ),
    Function(
        "abs",
        "abs(x)",
        "The magnitude.",
        (Example("abs(x)", {"x": -2.5}, 2.5),),
        arithmetic,
        (1, 1),
        "abs({0})",
        _wide(lambda a: a.abs()),
        overflows=overflows,
        checked=True,
    ),
)
