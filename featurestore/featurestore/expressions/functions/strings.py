"""Functions of text, which is counted in code points."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from featurestore.expressions import runtime
from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import RuleError, Signature, need, need_literal, texts
from featurestore.types import BOOL, INT64, STRING, DataType

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer

_TOKENS = DataType("list", item=STRING)
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


def _cased(name: str) -> Callable[..., pl.Expr]:
    """Return the lowering of lower and upper: Python's own beyond ASCII, where Unicode versions differ."""

    def lower(_: Call, x: pl.Expr) -> pl.Expr:
        import polars as pl

        def run(series: pl.Series) -> pl.Series:
            if series.str.len_bytes().sum() == series.str.len_chars().sum():
                return series.str.to_lowercase() if name == "lower" else series.str.to_uppercase()
            function = getattr(str, name)
            return pl.Series([None if v is None else function(v) for v in series.to_list()], dtype=pl.String)

        return x.map_batches(run, return_dtype=pl.String, is_elementwise=True)

    return lower


def _substring_rule(arguments: tuple[Expression, ...]) -> Signature:
    need(arguments[0], "a string", arguments[0].type == STRING)
    for argument in arguments[1:]:
        need(argument, "an integer for positions", argument.type.is_integer)
    return [STRING, *([INT64] * (len(arguments) - 1))], STRING


def _substring(_: Call, x: pl.Expr, start: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    import polars as pl

    begin = start.clip(-runtime.FAR, runtime.FAR) - 1
    offset = begin.clip(lower_bound=0)
    if length is None:
        held = pl.when(start.is_not_null()).then(x)
        return held.str.slice(offset)
    end = begin + length.clip(0, 4 * runtime.FAR)
    count = (end - offset).clip(lower_bound=0)
    held = pl.when(start.is_not_null() & length.is_not_null()).then(x)
    return held.str.slice(offset.fill_null(0), count.fill_null(0).cast(pl.UInt64))


def _replace_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, kind = texts(STRING)(arguments)
    if not need_literal(arguments[1], "the text to replace").value:
        raise RuleError("the text to replace is empty")
    return kinds, kind


def _replace(call: Call, x: pl.Expr, _: pl.Expr, new: pl.Expr) -> pl.Expr:
    old = call.arguments[1]
    assert isinstance(old, Literal)
    if isinstance(call.arguments[2], Literal) and call.arguments[2].value is not None:
        return x.str.replace_all(old.value, call.arguments[2].value, literal=True)

    from featurestore.expressions.vectors import values

    return values(lambda text, other: text.replace(old.value, other), STRING, x, new)


def pattern(like: str) -> str:
    """Return the regular expression of a LIKE pattern, for both Python and Polars."""
    return "".join(
        "(?s:.*)" if c == "%" else "(?s:.)" if c == "_" else _SPECIAL.sub(r"\\\g<0>", c) for c in like
    )


def _like_rule(arguments: tuple[Expression, ...]) -> Signature:
    need_literal(arguments[1], "the pattern")
    return texts(BOOL)(arguments)


def _like_text(call: Call) -> str:
    assert isinstance(call.arguments[1], Literal)
    return pattern(call.arguments[1].value)


def _like_python(writer: Writer, call: Call, x: str, _: str) -> str:
    return f"{writer.constant(re.compile(_like_text(call)).fullmatch)}({x}) is not None"


def _both(test: Callable[[Any, Any], Any]) -> Callable[..., pl.Expr]:
    """Return the lowering of a test of text with text, null where either is null."""

    def lower(_: Call, x: pl.Expr, part: pl.Expr) -> pl.Expr:
        import polars as pl

        return pl.when(x.is_not_null() & part.is_not_null()).then(test(x, part))

    return lower


def _concat_polars(_: Call, *arguments: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.concat_str(*arguments, ignore_nulls=False)


def _length_rule(arguments: tuple[Expression, ...]) -> Signature:
    kind = arguments[0].type
    need(arguments[0], "a string", kind == STRING or kind.name == "list")
    return [kind if kind.name == "list" else STRING], INT64


def _length(call: Call, x: pl.Expr) -> pl.Expr:
    counted = x.list.len() if call.arguments[0].type.name == "list" else x.str.len_chars()
    return counted.cast(INT64.polars())


def _by_value(function: Callable[[Any], Callable[..., Any]], kind: DataType) -> Callable[..., pl.Expr]:
    """Return the lowering that calls, on each text, the function that the call's constants give."""

    def lower(call: Call, x: pl.Expr, *_: pl.Expr) -> pl.Expr:
        from featurestore.expressions.vectors import values

        return values(function(call), kind, x)

    return lower


def _tokens_rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, kind = texts(_TOKENS)(arguments)
    if len(arguments) == 2 and not need_literal(arguments[1], "the separator").value:
        raise RuleError("the separator is empty")
    return kinds, kind


def _tokens(call: Call) -> Callable[[str], list[str]]:
    if len(call.arguments) == 1:
        return runtime.tokens
    separator = need_literal(call.arguments[1], "the separator").value
    return lambda text: runtime.split(text, separator)


FUNCTIONS = (
    Function(
        "length",
        "length(text)",
        "The number of code points; of a list, of its items.",
        (Example("length(x)", {"x": "naïve"}, 5), Example("length(tokens(x))", {"x": "to be, or"}, 3)),
        _length_rule,
        (1, 1),
        "len({0})",
        _length,
    ),
    Function(
        "lower",
        "lower(text)",
        "The text in lower case.",
        (Example("lower(x)", {"x": "ÄB"}, "äb"),),
        texts(STRING),
        (1, 1),
        "{0}.lower()",
        _cased("lower"),
    ),
    Function(
        "upper",
        "upper(text)",
        "The text in upper case.",
        (Example("upper(x)", {"x": "straße"}, "STRASSE"),),
        texts(STRING),
        (1, 1),
        "{0}.upper()",
        _cased("upper"),
    ),
    Function(
        "trim",
        "trim(text)",
        "The text without spaces, tabs and line ends at both ends.",
        (Example("trim(x)", {"x": "  a b\n"}, "a b"),),
        texts(STRING),
        (1, 1),
        f"{{0}}.strip({runtime.TRIMMED!r})",
        lambda _, x: x.str.strip_chars(runtime.TRIMMED),
    ),
    Function(
        "concat",
        "concat(a, b, …)",
        "The texts joined; null where any is null. Also a || b.",
        (Example("concat(a, '-', b)", {"a": "x", "b": "y"}, "x-y"), Example("a || 'y'", {"a": None}, None)),
        texts(STRING),
        (1, None),
        lambda _, __, *arguments: " + ".join(arguments),
        _concat_polars,
    ),
    Function(
        "substring",
        "substring(text, start[, length])",
        "length code points from the 1-based start; positions before 1 count and are empty.",
        (
            Example("substring(x, 2, 3)", {"x": "abcdef"}, "bcd"),
            Example("substring(x, 5)", {"x": "abcdef"}, "ef"),
        ),
        _substring_rule,
        (2, 3),
        lambda _, __, *arguments: f"substring({', '.join(arguments)})",
        _substring,
    ),
    Function(
        "starts_with",
        "starts_with(text, part)",
        "Whether the text begins with the part.",
        (Example("starts_with(x, 'es_')", {"x": "es_food"}, True),),
        texts(BOOL),
        (2, 2),
        "{0}.startswith({1})",
        _both(lambda x, part: x.str.starts_with(part)),
    ),
    Function(
        "ends_with",
        "ends_with(text, part)",
        "Whether the text ends with the part.",
        (Example("ends_with(x, 'food')", {"x": "es_food"}, True),),
        texts(BOOL),
        (2, 2),
        "{0}.endswith({1})",
        _both(lambda x, part: x.str.ends_with(part)),
    ),
    Function(
        "contains",
        "contains(text, part)",
        "Whether the part occurs in the text.",
        (Example("contains(x, '_f')", {"x": "es_food"}, True),),
        texts(BOOL),
        (2, 2),
        "{1} in {0}",
        _both(lambda x, part: x.str.contains(part, literal=True)),
    ),
    Function(
        "replace",
        "replace(text, old, new)",
        "The text with every `old` replaced by `new`; `old` is written out.",
        (Example("replace(x, '-', '')", {"x": "a-b-c"}, "abc"),),
        _replace_rule,
        (3, 3),
        "{0}.replace({1}, {2})",
        _replace,
    ),
    Function(
        "like",
        "text like 'pattern'",
        "Whether the whole text fits the pattern: % stands for any text, _ for one code point.",
        (
            Example("x like 'es_f%'", {"x": "es_food"}, True),
            Example("x not like '%food'", {"x": "food!"}, True),
        ),
        _like_rule,
        (2, 2),
        _like_python,
        lambda call, x, _: x.str.contains(rf"\A{_like_text(call)}\z"),
        text="({0} like {1})",
    ),
    Function(
        "tokens",
        "tokens(text[, separator])",
        "A list of the words of a text, its longest runs of letters, digits and underscores; with a"
        " separator, of the parts between them. Of an empty text an empty list.",
        (
            Example("tokens(x)", {"x": "To be, or not"}, ["To", "be", "or", "not"]),
            Example("tokens(x, ';')", {"x": "a b;;c"}, ["a b", "", "c"]),
        ),
        _tokens_rule,
        (1, 2),
        lambda writer, call, x, *_: f"{writer.constant(_tokens(call))}({x})",
        _by_value(_tokens, _TOKENS),
    ),
)
