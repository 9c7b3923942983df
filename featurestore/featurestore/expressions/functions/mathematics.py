"""Functions of numbers. Logarithms of x <= 0 and roots of negatives are null (DESIGN 3.15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featurestore.expressions import runtime
from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import (
    RuleError,
    Signature,
    arithmetic,
    floats,
    need,
    need_literal,
)
from featurestore.types import BOOL, FLOAT64, INT64

if TYPE_CHECKING:
    import polars as pl


def _scalar(function: Callable[..., Any]) -> Callable[..., pl.Expr]:
    """Return the lowering that calls the Python function on each value.

    Polars computes log10, log2 and powers otherwise than the C library, which differs in the last bit.
    """

    def lower(call: Call, *arguments: pl.Expr) -> pl.Expr:
        from featurestore.expressions.vectors import values

        return values(function, call.type, *arguments)

    return lower


def _native(name: str) -> Callable[..., pl.Expr]:
    """Return the lowering to Polars' own function if it gives the bits of Python's, else to Python's."""

    def lower(call: Call, x: pl.Expr) -> pl.Expr:
        import polars as pl

        from featurestore.expressions.vectors import native_agrees, values

        positive = pl.when(x > 0).then(x) if name == "log" else x
        python = runtime.ln if name == "log" else runtime.exp
        return getattr(positive, name)() if native_agrees(name) else values(python, call.type, positive)

    return lower


def _sqrt(_: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(x >= 0).then(x).sqrt()


def _round_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, kind = arithmetic(arguments[:1])
    if len(arguments) == 2:
        digits = need_literal(arguments[1], "the number of digits")
        if digits.type != INT64 or not 0 <= digits.value <= 15:
            raise RuleError(f"rounds to 0 to 15 digits, found {digits.sql}")
        kinds = [*kinds, INT64]
    return kinds, kind


def _scale(call: Call) -> float:
    digits = call.arguments[1] if len(call.arguments) == 2 else Literal(INT64, 0)
    assert isinstance(digits, Literal)
    return float(10**digits.value)


def _round(call: Call, x: pl.Expr, *_: pl.Expr) -> pl.Expr:
    import polars as pl

    from featurestore.expressions.vectors import quotient

    if call.type.is_integer:
        return x
    scale = _scale(call)
    scaled = x * scale
    rounded = quotient(scaled.round(0, mode="half_to_even"), pl.lit(scale))
    return pl.when(scaled.abs() < 2.0**52).then(rounded).otherwise(x)


def _round_python(_: Any, call: Call, x: str, *__: str) -> str:
    return x if call.type.is_integer else f"round_half_even({x}, {_scale(call)!r})"


def _whole(name: str) -> tuple[Callable[..., str], Callable[..., pl.Expr]]:
    def python(_: Any, call: Call, x: str) -> str:
        return x if call.type.is_integer else f"{name}({x})"

    def lower(call: Call, x: pl.Expr) -> pl.Expr:
        return x if call.type.is_integer else getattr(x, name)()

    return python, lower


def _sign(call: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    kind = pl.Int64 if call.type.is_integer else pl.Float64
    size = (x > 0).cast(kind) - (x < 0).cast(kind)
    return size if call.type.is_integer else pl.when(x.is_nan()).then(x).otherwise(size)


def _sign_python(_: Any, call: Call, x: str) -> str:
    return f"({x} > 0) - ({x} < 0)" if call.type.is_integer else f"sign({x})"


def _is_nan_rule(arguments: tuple[Expression, ...]) -> Signature:
    need(arguments[0], "a number", arguments[0].type.is_number)
    return [FLOAT64], BOOL


def _unary(
    name: str,
    doc: str,
    examples: tuple[Example, ...],
    lower: Callable[..., pl.Expr],
    *,
    gives_null: bool = True,
) -> Function:
    return Function(
        name, f"{name}(x)", doc, examples, floats, (1, 1), name + "({0})", lower, gives_null=gives_null
    )


FUNCTIONS = (
    _unary(
        "ln",
        "The natural logarithm; null where x <= 0.",
        (Example("ln(x)", {"x": 1.0}, 0.0), Example("ln(x)", {"x": 0.0}, None)),
        _native("log"),
    ),
    _unary(
        "log10",
        "The logarithm to base 10; null where x <= 0.",
        (Example("log10(x)", {"x": 1000.0}, 3.0), Example("log10(x)", {"x": -1}, None)),
        _scalar(runtime.log10),
    ),
    _unary(
        "log2",
        "The logarithm to base 2; null where x <= 0.",
        (Example("log2(x)", {"x": 8.0}, 3.0), Example("log2(x)", {"x": 0}, None)),
        _scalar(runtime.log2),
    ),
    _unary(
        "exp",
        "e to the power x.",
        (Example("exp(x)", {"x": 0.0}, 1.0),),
        _native("exp"),
        gives_null=False,
    ),
    _unary(
        "sqrt",
        "The square root; null where x < 0.",
        (Example("sqrt(x)", {"x": 6.25}, 2.5), Example("sqrt(x)", {"x": -1.0}, None)),
        _sqrt,
    ),
    Function(
        "power",
        "power(x, y)",
        "x to the power y; null for 0 to a negative power, and for a negative to a fractional one.",
        (Example("power(x, 3)", {"x": 2}, 8.0), Example("power(x, 0.5)", {"x": -2.0}, None)),
        floats,
        (2, 2),
        "power({0}, {1})",
        _scalar(runtime.power),
        gives_null=True,
    ),
    Function(
        "floor",
        "floor(x)",
        "The greatest whole number at or below x, of x's type.",
        (Example("floor(x)", {"x": -1.5}, -2.0),),
        arithmetic,
        (1, 1),
        *_whole("floor"),
    ),
    Function(
        "ceil",
        "ceil(x)",
        "The least whole number at or above x, of x's type.",
        (Example("ceil(x)", {"x": 1.2}, 2.0),),
        arithmetic,
        (1, 1),
        *_whole("ceil"),
    ),
    Function(
        "round",
        "round(x[, digits])",
        "x rounded half to even, to 0 to 15 digits; the digits are written out.",
        (Example("round(x)", {"x": 2.5}, 2.0), Example("round(x, 1)", {"x": 0.25}, 0.2)),
        _round_rule,
        (1, 2),
        _round_python,
        _round,
    ),
    Function(
        "sign",
        "sign(x)",
        "-1, 0 or 1, of x's type; NaN of NaN.",
        (Example("sign(x)", {"x": -3}, -1),),
        arithmetic,
        (1, 1),
        _sign_python,
        _sign,
    ),
    Function(
        "is_nan",
        "is_nan(x)",
        "Whether x is NaN; null of null.",
        (Example("is_nan(x)", {"x": 1.0}, False),),
        _is_nan_rule,
        (1, 1),
        "{0} != {0}",
        lambda _, x: x.is_nan(),
    ),
)
