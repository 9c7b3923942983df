"""The lowering to Polars expressions."""

from __future__ import annotations

import functools

import polars as pl

from featurestore.expressions.functions import FUNCTIONS, may_overflow
from featurestore.expressions.nodes import Call, Column, Expression, Literal


def to_polars(expression: Expression) -> pl.Expr:
    """Return the Polars expression of the value. Null where the row is rejected.

    A computed float is never -0.0: Polars takes x + 0 for x, where the sign of a zero would change.
    """
    value = Lowering().lower(expression)
    if isinstance(expression, Column) or not expression.type.is_float:
        return value
    return pl.when(value == 0).then(pl.lit(0.0, dtype=expression.type.polars())).otherwise(value)


def rejects(expression: Expression) -> pl.Expr | None:
    """Return where overflow rejects the row (bool, never null); None if it cannot."""
    return Lowering().rejects(expression)


class Lowering:
    """Lowers nodes of one expression, each once."""

    def __init__(self) -> None:
        self._lowered: dict[int, pl.Expr] = {}

    def lower(self, node: Expression) -> pl.Expr:
        """Return the Polars expression of a node's value."""
        if id(node) not in self._lowered:
            self._lowered[id(node)] = self._lower(node)
        return self._lowered[id(node)]

    def rejects(self, node: Expression) -> pl.Expr | None:
        """Return the Polars expression of the rows that the node rejects, None where it rejects none."""
        if not may_overflow(node):
            return None
        assert isinstance(node, Call)
        function = FUNCTIONS[node.function]
        if function.rejects is not None:
            return function.rejects(self, node)
        rejected = [part for argument in node.arguments if (part := self.rejects(argument)) is not None]
        if function.overflows(node):
            lost = self.lower(node).is_null()
            for argument in node.arguments:
                lost = lost & self.lower(argument).is_not_null()
                if argument.type.is_float:
                    lost = lost & self.lower(argument).is_not_nan()
            rejected.append(lost)
        return functools.reduce(lambda a, b: a | b, rejected)

    def _lower(self, node: Expression) -> pl.Expr:
        if isinstance(node, Column):
            return pl.col(node.name)
        if isinstance(node, Literal):
            return constant(node)
        assert isinstance(node, Call)
        arguments = [self.lower(argument) for argument in node.arguments]
        return FUNCTIONS[node.function].polars(node, *arguments)


def constant(literal: Literal) -> pl.Expr:
    """Return the literal, exactly typed."""
    kind = literal.type.polars()
    if literal.type.name in ("timestamp", "date"):
        whole = pl.Int64 if literal.type.name == "timestamp" else pl.Int32
        return pl.lit(literal.value, dtype=whole).cast(kind)
    return pl.lit(literal.value, dtype=kind)
