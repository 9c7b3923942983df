"""Type rules: which types a function takes, what its arguments become, what it gives.

A rule receives the arguments and returns the type that each is coerced to, and the result's type.
Arithmetic is int64 where all are integers, else float64 (decimals too). Literals take the type of what
they stand beside, where they fit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

from featurestore.expressions.nodes import NULL, Call, Expression, Literal
from featurestore.expressions.runtime import Overflow, float32, text_to_date, text_to_timestamp, to_decimal
from featurestore.types import BOOL, FLOAT64, INT64, STRING, TIMESTAMP, DataType, integer_bounds

Signature = tuple[Sequence[DataType], DataType]
Rule = Callable[[tuple[Expression, ...]], Signature]


class RuleError(ValueError):
    """Arguments that a function does not take. The parser turns it into a SpecError with the place."""


def show_type(argument: Expression) -> str:
    """Return `string` or, of a literal, `string 'abc'`, as messages name an argument."""
    return f"{argument.type} {argument.sql}" if isinstance(argument, Literal) else str(argument.type)


def coerce(argument: Expression, target: DataType) -> Expression:
    """Return `argument` as `target` where nothing is lost by it. Raises RuleError otherwise."""
    if argument.type == target:
        return argument
    if isinstance(argument, Literal):
        return _coerce_literal(argument, target)
    if argument.type.is_number and (
        target == FLOAT64 or (target == INT64 and argument.type.is_integer) or _wider(argument.type, target)
    ):
        return Call(target, "widen", (argument,))
    raise RuleError(f"{target} is needed here, found {show_type(argument)}")


def _wider(kind: DataType, target: DataType) -> bool:
    if not (kind.is_integer and target.is_integer):
        return False
    (low, high), (floor, ceiling) = integer_bounds(kind), integer_bounds(target)
    return floor <= low and high <= ceiling


def _coerce_literal(literal: Literal, target: DataType) -> Literal:
    value = literal.value
    if value is None:
        return Literal(target, None)
    if literal.type.is_number and target.is_number:
        if target.is_integer and literal.type.is_integer:
            low, high = integer_bounds(target)
            if low <= value <= high:
                return Literal(target, value)
        elif target == FLOAT64:
            return Literal(target, float(value))
        elif target.name == "float32":
            narrow = float32(float(value))
            if narrow == value:
                return Literal(target, narrow)
        elif target.name == "decimal" and math.isfinite(value):
            exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
            try:
                fitted = to_decimal(exact, target.precision, target.scale)
            except Overflow:
                fitted = None
            if fitted == exact:
                return Literal(target, fitted)
    elif literal.type == STRING and target.name in ("timestamp", "date"):
        instant = text_to_timestamp(value) if target == TIMESTAMP else text_to_date(value)
        if instant is not None:
            return Literal(target, instant)
        form = "2026-11-21T10:00:00Z, with its zone" if target == TIMESTAMP else "2026-11-21"
        raise RuleError(f"{literal.sql} is no {target}; write it as {form}")
    raise RuleError(f"{target} is needed here, found {show_type(literal)}")


def fits(argument: Expression, target: DataType) -> bool:
    """Return whether `coerce` would succeed."""
    try:
        coerce(argument, target)
    except RuleError:
        return False
    return True


def unify(arguments: Sequence[Expression]) -> DataType:
    """Return the one type that all arguments take: equal types stay, literals adapt, numbers widen.

    Integers of different widths meet in int64, other numbers in float64. Raises RuleError where the
    types have nothing in common.
    """
    firm = list(dict.fromkeys(a.type for a in arguments if not isinstance(a, Literal)))
    loose = list(dict.fromkeys(a.type for a in arguments if isinstance(a, Literal) and a.type != NULL))
    if len(firm) == 1 and all(fits(a, firm[0]) for a in arguments):
        return firm[0]
    if len(firm) == 1 and firm[0].name in ("timestamp", "date") and loose == [STRING]:
        return firm[0]  # `coerce` says how its text is written
    kinds = list(dict.fromkeys(firm + loose))
    if len(kinds) <= 1:
        return kinds[0] if kinds else NULL
    if all(kind.is_integer for kind in kinds):
        return INT64
    if all(kind.is_number for kind in kinds):
        return FLOAT64
    for kind in kinds:
        if all(fits(a, kind) for a in arguments):
            return kind
    shown = dict.fromkeys(show_type(a) for a in arguments if a.type != NULL)
    raise RuleError(f"these types do not go together: {', '.join(shown)}")


def need(argument: Expression, what: str, holds: bool) -> None:
    """Raise RuleError "needs {what}, found {type}" unless `holds` or the argument is null."""
    if not holds and argument.type != NULL:
        hint = "; write it as cast(… as string)" if what == "a string" else ""
        raise RuleError(f"needs {what}, found {show_type(argument)}{hint}")


def need_literal(argument: Expression, what: str) -> Literal:
    """Return the argument, which must be a constant that is not null."""
    if not isinstance(argument, Literal) or argument.value is None:
        raise RuleError(f"needs {what} written out, found {argument.sql}")
    return argument


def arithmetic(arguments: tuple[Expression, ...]) -> Signature:
    """All int64 where all are integers, else all float64."""
    for argument in arguments:
        hint = "; write it as cast(… as float64)" if argument.type == STRING else ""
        if argument.type.name in ("timestamp", "date"):
            hint = "; use seconds_between(a, b) for the time between two timestamps"
        if not argument.type.is_number and argument.type != NULL:
            raise RuleError(f"needs a number, found {show_type(argument)}{hint}")
    kinds = [a.type for a in arguments if a.type != NULL]
    kind = INT64 if kinds and all(k.is_integer for k in kinds) else FLOAT64
    return [kind] * len(arguments), kind


def floats(arguments: tuple[Expression, ...]) -> Signature:
    """Numbers, taken as float64; float64."""
    arithmetic(arguments)
    return [FLOAT64] * len(arguments), FLOAT64


def texts(result: DataType) -> Rule:
    """Return the rule of functions of strings that give `result`."""

    def rule(arguments: tuple[Expression, ...]) -> Signature:
        for argument in arguments:
            need(argument, "a string", argument.type == STRING)
        return [STRING] * len(arguments), result

    return rule


def booleans(arguments: tuple[Expression, ...]) -> Signature:
    """Booleans; a boolean."""
    for argument in arguments:
        need(argument, "a condition (bool)", argument.type == BOOL)
    return [BOOL] * len(arguments), BOOL


def same(arguments: tuple[Expression, ...]) -> Signature:
    """Arguments of one type, which the result has."""
    kind = unify(arguments)
    return [kind] * len(arguments), kind


def ordered(arguments: tuple[Expression, ...]) -> Signature:
    """Arguments of one type that has an order, which the result has."""
    kind = unify(arguments)
    if kind.name == "json":
        raise RuleError("documents have no order; take a value out: cast(json_extract(…, '$.name') as …)")
    if kind.item is not None:
        raise RuleError(f"{kind.name}s have no order")
    return [kind] * len(arguments), kind


def comparison(arguments: tuple[Expression, ...]) -> Signature:
    """Arguments of one type that has an order; a boolean."""
    kinds, kind = ordered(arguments)
    return ([BOOL] * len(arguments) if kind == NULL else kinds), BOOL
