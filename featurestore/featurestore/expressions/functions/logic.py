"""Kleene's and/or/not, null tests and choices.

`and` and `or` look at their right side only where the left does not decide; `case`, `if` and `coalesce`
only at the branch that is taken. What is not looked at rejects no row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featurestore.expressions.functions.base import Example, Function, Macro, never
from featurestore.expressions.functions.comparison import literals
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import (
    RuleError,
    Signature,
    booleans,
    need,
    same,
    unify,
)
from featurestore.types import BOOL

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer
    from featurestore.expressions.to_polars import Lowering


def _and_python(writer: Writer, call: Call) -> str:
    (a, a_again), (b, b_again) = map(writer.bind, call.arguments)
    null = f"{a_again} is None or {b_again} is None"
    return f"(False if {a} is False or {b} is False else None if {null} else True)"


def _or_python(writer: Writer, call: Call) -> str:
    (a, a_again), (b, b_again) = map(writer.bind, call.arguments)
    return (
        f"(True if {a} is True or {b} is True else None if {a_again} is None or {b_again} is None else False)"
    )


def _either(a: pl.Expr | None, b: pl.Expr | None) -> pl.Expr | None:
    return a if b is None else b if a is None else a | b


def _guarded(decides: bool) -> Callable[[Lowering, Call], pl.Expr | None]:
    """Return where the left side rejects, or the right where the left does not decide."""

    def rejects(lowering: Lowering, call: Call) -> pl.Expr | None:
        left, right = call.arguments
        second = lowering.rejects(right)
        if second is not None:
            second = second & lowering.lower(left).ne_missing(decides)
        return _either(lowering.rejects(left), second)

    return rejects


def _case_rule(arguments: tuple[Expression, ...]) -> Signature:
    conditions = arguments[:-1:2]
    values = (*arguments[1:-1:2], arguments[-1])
    for condition in conditions:
        need(condition, "a condition (bool) after when", condition.type == BOOL)
    kind = unify(values)
    return [BOOL if i % 2 == 0 and i < len(arguments) - 1 else kind for i in range(len(arguments))], kind


def _case_python(writer: Writer, call: Call) -> str:
    *branches, otherwise = call.arguments
    text = ""
    for condition, value in zip(branches[::2], branches[1::2], strict=True):
        text += f"{writer.code(value)} if {writer.code(condition)} else "
    return f"({text}{writer.code(otherwise)})"


def _case_polars(_: Call, *arguments: pl.Expr) -> pl.Expr:
    import polars as pl

    chain: Any = pl
    for condition, value in zip(arguments[:-1:2], arguments[1:-1:2], strict=True):
        chain = chain.when(condition).then(value)
    return chain.otherwise(arguments[-1])  # type: ignore[no-any-return]


def _case_rejects(lowering: Lowering, call: Call) -> pl.Expr | None:
    *branches, otherwise = call.arguments
    rejected = lowering.rejects(otherwise)
    for condition, value in reversed(list(zip(branches[::2], branches[1::2], strict=True))):
        taken = lowering.rejects(value)
        holds = lowering.lower(condition).eq_missing(True)
        here = None if taken is None else taken & holds
        after = None if rejected is None else rejected & ~holds
        rejected = _either(lowering.rejects(condition), _either(here, after))
    return rejected


def _case_nullable(call: Call) -> bool:
    from featurestore.expressions.functions import nullable

    return any(map(nullable, (*call.arguments[1:-1:2], call.arguments[-1])))


def _case_text(call: Call) -> str:
    *branches, otherwise = (argument.sql for argument in call.arguments)
    pairs = zip(branches[::2], branches[1::2], strict=True)
    return f"case {' '.join(f'when {c} then {v}' for c, v in pairs)} else {otherwise} end"


def _coalesce_python(writer: Writer, call: Call) -> str:
    text = ""
    for argument in call.arguments[:-1]:
        first, again = writer.bind(argument)
        text += f"{again} if {first} is not None else "
    return f"({text}{writer.code(call.arguments[-1])})"


def _coalesce_polars(_: Call, *arguments: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.coalesce(arguments)


def _coalesce_rejects(lowering: Lowering, call: Call) -> pl.Expr | None:
    rejected = None
    for argument in reversed(call.arguments):
        if rejected is not None:
            rejected = rejected & lowering.lower(argument).is_null()
        rejected = _either(lowering.rejects(argument), rejected)
    return rejected


def _coalesce_nullable(call: Call) -> bool:
    from featurestore.expressions.functions import nullable

    return all(map(nullable, call.arguments))


def _not_python(_: Writer, __: Call, x: str) -> str:
    return f"not {x}"


def _lookup_rule(arguments: tuple[Expression, ...]) -> Signature:
    x, default, *pairs = arguments
    key = unify((x, *pairs[::2]))
    if key != x.type:
        raise RuleError(f"the keys do not go with {x.type}")
    kind = unify((default, *pairs[1::2]))
    return [key, kind, *([key, kind] * (len(pairs) // 2))], kind


def _lookup_pairs(call: Call) -> dict[Any, Any]:
    values = literals(call.arguments[2:])
    return dict(zip(values[::2], values[1::2], strict=True))


def _lookup_python(writer: Writer, call: Call) -> str:
    x, default = call.arguments[:2]
    first, again = writer.bind(x)
    table = writer.constant(_lookup_pairs(call))
    if isinstance(default, Literal):
        return f"{table}.get({first}, {writer.code(default)})"
    return f"({table}[{again}] if {first} in {table} else {writer.code(default)})"


def _lookup_polars(call: Call, x: pl.Expr, default: pl.Expr, *_: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import column

    pairs = _lookup_pairs(call)
    keys, values = column(list(pairs), call.arguments[0].type), column(list(pairs.values()), call.type)
    return x.replace_strict(keys, values, default=default, return_dtype=call.type.polars())


def _choose(condition: Expression, value: Expression, otherwise: Expression) -> Expression:
    from featurestore.expressions.build import call

    return call("case", condition, value, otherwise)


FUNCTIONS = (
    Function(
        "and",
        "a and b",
        "Kleene's and: false if either is false, else null if either is null.",
        (
            Example("a and b", {"a": None, "b": False}, False),
            Example("a and b", {"a": None, "b": True}, None),
        ),
        booleans,
        (2, 2),
        _and_python,
        lambda _, a, b: a & b,
        strict=False,
        rejects=_guarded(False),
        nulls="null, but false beside false",
        text="({0} and {1})",
    ),
    Function(
        "or",
        "a or b",
        "Kleene's or: true if either is true, else null if either is null.",
        (Example("a or b", {"a": None, "b": True}, True), Example("a or b", {"a": None, "b": False}, None)),
        booleans,
        (2, 2),
        _or_python,
        lambda _, a, b: a | b,
        strict=False,
        rejects=_guarded(True),
        nulls="null, but true beside true",
        text="({0} or {1})",
    ),
    Function(
        "not",
        "not a",
        "The opposite; null of null.",
        (Example("not a", {"a": True}, False),),
        booleans,
        (1, 1),
        _not_python,
        lambda _, a: ~a,
        text="(not {0})",
    ),
    Function(
        "is_null",
        "a is null",
        "Whether a is null; `a is not null` is the opposite. NaN is not null.",
        (Example("a is null", {"a": None}, True), Example("a is not null", {"a": None}, False)),
        lambda arguments: ([arguments[0].type], BOOL),
        (1, 1),
        lambda writer, call: f"({writer.bind(call.arguments[0])[0]} is None)",
        lambda _, a: a.is_null(),
        strict=False,
        nullable=never,
        text="({0} is null)",
        nulls="true of null, and never null itself",
    ),
    Function(
        "case",
        "case when condition then value … [else value] end",
        "The value of the first condition that is true, else null or the value after else.",
        (
            Example("case when a > 10 then 'high' when a > 5 then 'mid' else 'low' end", {"a": 7}, "mid"),
            Example("case a when 1 then 'one' end", {"a": 2}, None),
        ),
        _case_rule,
        (3, None),
        _case_python,
        _case_polars,
        strict=False,
        nullable=_case_nullable,
        rejects=_case_rejects,
        text=_case_text,
        nulls="a null condition does not hold; null where the value taken is",
    ),
    Function(
        "coalesce",
        "coalesce(a, b, …)",
        "The first that is not null.",
        (Example("coalesce(a, 0)", {"a": None}, 0),),
        same,
        (1, None),
        _coalesce_python,
        _coalesce_polars,
        strict=False,
        nullable=_coalesce_nullable,
        rejects=_coalesce_rejects,
        nulls="null where all are",
    ),
    Function(
        "lookup",
        "lookup(x, default, key, value, …)",
        "The value beside the key that x equals, else the default; keys and values are written out.",
        (Example("lookup(x, x, 'U', '0')", {"x": "U"}, "0"),),
        _lookup_rule,
        (4, None),
        _lookup_python,
        _lookup_polars,
        strict=False,
        nullable=lambda _: True,
        nulls="a null x takes the default",
    ),
)

MACROS = (
    Macro(
        "if",
        "if(condition, a, b)",
        "a where the condition is true, else b.",
        (Example("if(a > 0, 'up', 'down')", {"a": None}, "down"),),
        (3, 3),
        _choose,
        "a null condition takes b",
    ),
)
