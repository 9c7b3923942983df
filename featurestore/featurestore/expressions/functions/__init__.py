"""The one table of functions and operators. To add one, add an entry to the module of its kind."""

from __future__ import annotations

from featurestore.expressions.functions import (
    arithmetic,
    casts,
    comparison,
    documents,
    geography,
    hashes,
    logic,
    mathematics,
    patterns,
    strings,
    time,
)
from featurestore.expressions.functions.base import Example, Function, Macro
from featurestore.expressions.nodes import Column, Expression, Literal

__all__ = ["FUNCTIONS", "MACROS", "Example", "Function", "Macro", "may_overflow", "nullable"]

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for module in (
        arithmetic,
        mathematics,
        geography,
        comparison,
        logic,
        strings,
        patterns,
        documents,
        hashes,
        time,
        casts,
    )
    for function in module.FUNCTIONS
}

MACROS: dict[str, Macro] = {macro.name: macro for module in (comparison, logic) for macro in module.MACROS}


def nullable(expression: Expression) -> bool:
    """Return whether the expression may be null."""
    if isinstance(expression, Literal):
        return expression.value is None
    if isinstance(expression, Column):
        return True
    function = FUNCTIONS[expression.function]  # type: ignore[attr-defined]
    if function.strict and function.gives_null:
        return True
    return function.nullable(expression)  # type: ignore[arg-type]


def may_overflow(expression: Expression) -> bool:
    """Return whether the expression, or a part of it, may reject a row."""
    if isinstance(expression, (Literal, Column)):
        return False
    function = FUNCTIONS[expression.function]  # type: ignore[attr-defined]
    return function.overflows(expression) or any(map(may_overflow, expression.arguments))  # type: ignore[attr-defined,arg-type]
