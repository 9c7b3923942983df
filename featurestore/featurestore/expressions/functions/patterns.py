"""Regular expressions: Python's, in both lowerings, so that they mean the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import RuleError, Signature, need_literal, texts
from featurestore.types import BOOL

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer


def _rule(arguments: tuple[Expression, ...]) -> Signature:
    pattern = need_literal(arguments[1], "the pattern")
    signature = texts(BOOL)(arguments)
    try:
        re.compile(pattern.value)
    except re.error as error:
        raise RuleError(f"{pattern.sql} is no regular expression: {error}") from None
    return signature


def _compiled(call: Call) -> re.Pattern[str]:
    assert isinstance(call.arguments[1], Literal)
    return re.compile(call.arguments[1].value)


def _python(writer: Writer, call: Call, x: str, _: str) -> str:
    return f"{writer.constant(_compiled(call).fullmatch)}({x}) is not None"


def _polars(call: Call, x: pl.Expr, _: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import values

    fits = _compiled(call).fullmatch
    return values(lambda text: fits(text) is not None, BOOL, x)


FUNCTIONS = (
    Function(
        "matches",
        "matches(text, 'regex')",
        "Whether the whole text fits the regular expression, in Python's syntax.",
        (
            Example("matches(x, 'es_[a-z]+')", {"x": "es_food"}, True),
            Example("matches(x, 'es')", {"x": "es_food"}, False),
        ),
        _rule,
        (2, 2),
        _python,
        _polars,
    ),
)
