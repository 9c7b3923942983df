"""Regular expressions: Python's, in both lowerings, so that they mean the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression
from featurestore.expressions.rules import RuleError, Signature, need_literal, texts
from featurestore.types import BOOL, INT64, STRING

if TYPE_CHECKING:
    import polars as pl


def _regex(argument: Expression) -> re.Pattern[str]:
    text = need_literal(argument, "the pattern").value
    try:
        return re.compile(str(text))
    except re.error as error:
        raise RuleError(f"the pattern cannot be read: {error}") from None


def _extract_rule(arguments: tuple[Expression, ...]) -> Signature:
    groups = _regex(arguments[1]).groups
    kinds, kind = texts(STRING)(arguments[:2])
    if len(arguments) == 3:
        group = need_literal(arguments[2], "the group")
        if group.type != INT64 or not 0 <= group.value <= groups:
            raise RuleError(f"the pattern has groups 0 to {groups}, found {group.sql}")
        return [*kinds, INT64], kind
    return kinds, kind


def _extractor(call: Call) -> Callable[[str], str | None]:
    regex = _regex(call.arguments[1])
    group = min(regex.groups, 1)
    if len(call.arguments) == 3:
        group = need_literal(call.arguments[2], "the group").value
    search = regex.search

    def extract(text: str) -> str | None:
        found = search(text)
        return None if found is None else found[group]

    return extract


def _matches_rule(arguments: tuple[Expression, ...]) -> Signature:
    _regex(arguments[1])
    return texts(BOOL)(arguments)


def _matcher(call: Call) -> Callable[[str], bool]:
    fits = _regex(call.arguments[1]).fullmatch
    return lambda text: fits(text) is not None


def _extract(call: Call, x: pl.Expr, *_: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import values

    return values(_extractor(call), STRING, x)


def _match(call: Call, x: pl.Expr, *_: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import values

    return values(_matcher(call), BOOL, x)


FUNCTIONS = (
    Function(
        "matches",
        "matches(text, 'pattern')",
        "Whether the whole text fits the pattern, a regular expression of Python's.",
        (
            Example("matches(x, 'es_[a-z]+')", {"x": "es_food"}, True),
            Example("matches(x, 'es')", {"x": "es_food"}, False),
        ),
        _matches_rule,
        (2, 2),
        lambda writer, call, x, _: f"{writer.constant(_matcher(call))}({x})",
        _match,
    ),
    Function(
        "regex_extract",
        "regex_extract(text, 'pattern'[, group])",
        "What a group of the pattern, a regular expression of Python's, finds first: group 1, or 0, the"
        " whole, where it has none. Null where the pattern or the group is not found.",
        (
            Example("regex_extract(x, 'MCC=([0-9]+)')", {"x": "POS MCC=5411 DE"}, "5411"),
            Example("regex_extract(x, '([a-z]+)@(.+)', 2)", {"x": "ann@example.org"}, "example.org"),
            Example("regex_extract(x, '[0-9]+')", {"x": "none"}, None),
        ),
        _extract_rule,
        (2, 3),
        lambda writer, call, x, *_: f"{writer.constant(_extractor(call))}({x})",
        _extract,
        gives_null=True,
    ),
)
