"""Typed construction of expressions, with or without SQL text."""

from __future__ import annotations

from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions.functions import FUNCTIONS, MACROS
from featurestore.expressions.functions.casts import castable
from featurestore.expressions.nodes import NULL, Call, Expression, Literal, RowRejected
from featurestore.expressions.rules import RuleError, coerce, fits
from featurestore.types import JSON, STRING, DataType

DEEPEST = 100


def names() -> list[str]:
    """Return the names of all functions that are called by name."""
    written = [f.name for f in FUNCTIONS.values() if f.signature.startswith(f"{f.name}(")]
    return sorted([*written, "if"])


def call(name: str, *arguments: Expression, fold: bool = True) -> Expression:
    """Return the typed call of a function, its arguments coerced, a constant where all of them are.

    Raises SpecError that names the call, and the nearest name where the function is unknown.
    """
    function = FUNCTIONS.get(name) or MACROS.get(name)
    if function is None or (function.name == "widen"):
        raise SpecError(f"'{name}' is no function.", hint=did_you_mean(name, names()))
    low, high = function.arity
    if len(arguments) < low or (high is not None and len(arguments) > high):
        count = str(low) if low == high else f"{low} to {high}" if high else f"{low} or more"
        raise SpecError(
            f"{name} takes {count} argument{'' if count == '1' else 's'}, found {len(arguments)}.",
            hint=f"Write {function.signature}",
        )
    if name in MACROS:
        expanded: Expression = MACROS[name].expand(*arguments)
        return expanded
    try:
        kinds, kind = FUNCTIONS[name].rule(arguments)
        coerced = tuple(coerce(a, k) for a, k in zip(arguments, kinds, strict=True))
    except RuleError as error:
        raise SpecError(f"{_show(name, arguments)}: {error}.") from None
    return _finish(Call(kind, name, coerced), fold)


def cast(argument: Expression, kind: DataType, *, fold: bool = True) -> Expression:
    """Return `argument` as another type; itself where it has that type already."""
    if argument.type == kind:
        return argument
    if isinstance(argument, Literal) and (argument.value is None or fits(argument, kind)):
        return coerce(argument, kind)
    if not castable(argument.type, kind):
        raise SpecError(f"{argument.sql} of type {argument.type} cannot be cast to {kind}.")
    if argument.type == JSON and kind.name not in ("string", "list"):
        return cast(cast(argument, STRING, fold=fold), kind, fold=fold)
    return _finish(Call(kind, "cast", (argument,)), fold)


def to_type(argument: Expression, kind: DataType) -> Expression:
    """Return `argument` as `kind` where that loses nothing. Raises SpecError otherwise."""
    try:
        return coerce(argument, kind)
    except RuleError as error:
        raise SpecError(f"{error}.") from None


def constant(value: object) -> Literal:
    """Return a constant as a literal: null, bool, int, float or text. Raises SpecError otherwise."""
    if value is None:
        return Literal(NULL, None)
    if isinstance(value, int) and not isinstance(value, bool):
        if -(2**63) <= value < 2**64:
            return Literal(DataType("int64" if value < 2**63 else "uint64"), value)
        raise SpecError(f"{value} does not fit 64 bits.")
    for kind, name in ((bool, "bool"), (float, "float64"), (str, "string")):
        if isinstance(value, kind):
            return Literal(DataType(name), value + 0.0 if isinstance(value, float) else value)
    raise SpecError(f"{value!r} is no constant.", hint="Write null, true, false, a number or text.")


def _finish(node: Call, fold: bool) -> Expression:
    if node.depth > DEEPEST:
        raise SpecError(
            f"The expression nests more than {DEEPEST} deep.", hint="Split it into several derived columns."
        )
    if not fold or node.type.name == "list":
        return node
    if not all(isinstance(argument, Literal) for argument in node.arguments):
        return node
    from featurestore.expressions.to_closure import to_closure

    try:
        return Literal(node.type, to_closure(node)({}))
    except RowRejected:
        raise SpecError(f"{node.sql} does not fit {node.type}.") from None


def _show(name: str, arguments: tuple[Expression, ...]) -> str:
    """Return the call as its author would write it."""
    function = FUNCTIONS[name]
    return function.show(Call(NULL, name, arguments))
