"""SQL text to typed expressions. sqlglot reads the text; what it reads that is not ours is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import sqlglot
from sqlglot import TokenType, exp
from sqlglot import parser as sqlglot_parser
from sqlglot import tokens as sqlglot_tokens
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions.build import call, cast, constant, names
from featurestore.expressions.nodes import NULL, Column, Expression, Literal
from featurestore.types import BOOL, DataType

_LONGEST = 100_000
_CONSTANTS = frozenset(("current_date", "current_timestamp", "now", "current_time", "localtimestamp"))


class _Parser(sqlglot_parser.Parser):
    """sqlglot's parser without its functions: every name( … ) is read as it is written."""

    FUNCTIONS = {}  # noqa: RUF012 - sqlglot's own form
    NO_PAREN_FUNCTIONS = {}  # noqa: RUF012
    FUNCTION_PARSERS = {"CAST": sqlglot_parser.Parser.FUNCTION_PARSERS["CAST"]}  # noqa: RUF012
    NO_PAREN_FUNCTION_PARSERS = {  # noqa: RUF012
        "CASE": sqlglot_parser.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]
    }

    def _parse_types(self, *options: Any, **named: Any) -> exp.Expr | None:
        """Read a type; `list<item>` is ours, and to sqlglot's keywords it would be a name."""
        if not (self._curr and self._curr.text.lower() == "list" and self._next):
            return super()._parse_types(*options, **named)
        if self._next.token_type != TokenType.LT:
            return super()._parse_types(*options, **named)
        self._advance(2)
        item = self._parse_types()
        if not isinstance(item, exp.DataType) or not self._match(TokenType.GT):
            self.raise_error("Expected list<type>")
            return None
        kind = f"list<{_type_text(item)}>"
        return exp.DataType(this=exp.DataType.Type.USERDEFINED, kind=kind)


_WORDS = (
    *("AND", "OR", "NOT", "IS", "NULL", "IN", "BETWEEN", "LIKE", "TRUE", "FALSE"),
    *("CASE", "WHEN", "THEN", "ELSE", "END", "AS", "DATE", "TIMESTAMP", "DECIMAL"),
)


class _Tokenizer(sqlglot_tokens.Tokenizer):
    """sqlglot's tokenizer with our few keywords, so that columns may be called show, order or comment."""

    KEYWORDS = {  # noqa: RUF012
        text: token
        for text, token in sqlglot_tokens.Tokenizer.KEYWORDS.items()
        if text in _WORDS or not text[0].isalpha()
    }


class _Language(Dialect):
    Tokenizer = _Tokenizer
    Parser = _Parser


_BINARY: dict[type[exp.Expression], str] = {
    exp.Add: "add",
    exp.Sub: "subtract",
    exp.Mul: "multiply",
    exp.Div: "divide",
    exp.Mod: "remainder",
    exp.EQ: "equal",
    exp.NEQ: "not_equal",
    exp.LT: "less",
    exp.LTE: "less_equal",
    exp.GT: "greater",
    exp.GTE: "greater_equal",
    exp.And: "and",
    exp.Or: "or",
    exp.DPipe: "concat",
}


def parse(
    text: str, schema: Mapping[str, DataType], *, where: str | None = None, fold: bool = True
) -> Expression:
    """Return the typed expression of SQL text over columns of known types.

    Raises SpecError (with `where`) that names the part that is wrong, its types, and for an unknown
    column or function the nearest name. `fold` computes what is constant.
    """
    try:
        if len(text) > _LONGEST:
            raise SpecError(f"The expression is longer than {_LONGEST} characters.")
        expression = _Reader(schema, fold).read(_tree(text, schema))
        if expression.type == NULL:
            raise SpecError("The expression is always null.", hint="Say its type: cast(null as float64).")
        return expression
    except RecursionError:
        raise SpecError(
            "The expression nests too deep.", where=where, hint="Split it into several derived columns."
        ) from None
    except SpecError as error:
        message = f"{error.message.rstrip('.')}, in `{_short(text)}`."
        raise SpecError(message, where=where or error.where, hint=error.hint) from None


def _type_text(node: exp.DataType) -> str:
    """Return a type as our own text."""
    kind = node.args.get("kind")
    return str(kind) if kind and not node.expressions else node.sql().lower()


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def _tree(text: str, schema: Mapping[str, DataType]) -> Any:
    """Return sqlglot's tree. Raises SpecError that says where it cannot be read."""
    try:
        return sqlglot.parse_one(text, dialect=_Language, into=exp.Condition)
    except SqlglotError as error:
        reserved = [name for name in schema if name.upper() in _WORDS]
        hint = f'Write "{reserved[0]}" in double quotes: it is a word of the language.' if reserved else None
        detail = getattr(error, "errors", None)
        if detail and detail[0].get("highlight"):
            found = detail[0]["highlight"]
            at = detail[0]["col"] - len(found) + 1
            message = f"The expression cannot be read at '{found}' (character {at})."
        else:
            message = "The expression cannot be read; is it empty, or a quote open?"
        raise SpecError(message, hint=hint) from None


class _Reader:
    """Turns sqlglot's tree into ours."""

    def __init__(self, schema: Mapping[str, DataType], fold: bool) -> None:
        self._schema = schema
        self._call = functools.partial(call, fold=fold)
        self._fold = fold
        self._readers: dict[type[exp.Expression], Callable[[Any], Expression]] = {
            exp.Column: self._column,
            exp.Literal: self._literal,
            exp.Boolean: lambda node: Literal(BOOL, bool(node.this)),
            exp.Null: lambda _: Literal(NULL, None),
            exp.Paren: lambda node: self.read(node.this),
            exp.Neg: self._negate,
            exp.Not: lambda node: self._call("not", self.read(node.this)),
            exp.Is: self._is,
            exp.In: self._in,
            exp.Between: self._between,
            exp.Like: self._like,
            exp.Case: self._case,
            exp.Cast: self._cast,
            exp.Anonymous: self._function,
        }

    def read(self, node: exp.Expression) -> Expression:
        """Return our node for one of sqlglot's."""
        kind = type(node)
        if kind in _BINARY:
            return self._call(_BINARY[kind], self.read(node.this), self.read(node.expression))
        reader = self._readers.get(kind)
        if reader is None:
            raise SpecError(f"'{_short(node.sql())}' is not part of the expression language.")
        return reader(node)

    def _only(self, node: exp.Expression, *known: str) -> None:
        """Refuse what sqlglot read beyond the parts that we know."""
        extra = [key for key, value in node.args.items() if value and key not in known]
        if extra:
            raise SpecError(f"'{_short(node.sql())}' is not part of the expression language ({extra[0]}).")

    def _column(self, node: exp.Column) -> Expression:
        if not all(isinstance(part, exp.Identifier) for part in node.parts):
            raise SpecError(f"'{_short(node.sql())}' is not part of the expression language.")
        name = ".".join(part.name for part in node.parts)
        if name not in self._schema:
            hint = did_you_mean(name, self._schema)
            if name.lower() in _CONSTANTS:
                hint = f"There is no {name}: a step is a function of its row alone."
            raise SpecError(f"There is no column '{name}'.", hint=hint)
        return Column(self._schema[name], name)

    def _literal(self, node: exp.Literal) -> Expression:
        if node.is_string:
            return constant(str(node.this))
        return self._number(str(node.this))

    def _number(self, text: str) -> Expression:
        try:
            return constant(int(text) if text.isdigit() else float(text))
        except ValueError:
            raise SpecError(f"'{text}' is no number.") from None

    def _negate(self, node: exp.Neg) -> Expression:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return self._number_negated(str(node.this.this))
        return self._call("negate", self.read(node.this))

    def _number_negated(self, text: str) -> Expression:
        return constant(-int(text)) if text.isdigit() else constant(-float(text))

    def _is(self, node: exp.Is) -> Expression:
        value = self.read(node.this)
        if isinstance(node.expression, exp.Null):
            return self._call("is_null", value)
        if isinstance(node.expression, exp.Boolean):
            asked = value if node.expression.this else self._call("not", value)
            return self._call("coalesce", asked, Literal(BOOL, False))
        raise SpecError(f"'{_short(node.sql())}' is not part of the expression language.")

    def _in(self, node: exp.In) -> Expression:
        self._only(node, "this", "expressions")
        value = self.read(node.this)
        items = [self.read(item) for item in node.expressions]
        if not items:
            raise SpecError(f"'{_short(node.sql())}' lists nothing.")
        plain = [item for item in items if isinstance(item, Literal) and item.value is not None]
        parts = [self._call("in", value, *plain)] if plain else []
        for item in items:
            if item not in plain:
                parts.append(self._call("equal", value, item))
        return functools.reduce(lambda a, b: self._call("or", a, b), parts)

    def _between(self, node: exp.Between) -> Expression:
        self._only(node, "this", "low", "high")
        low, high = self.read(node.args["low"]), self.read(node.args["high"])
        return self._call("between", self.read(node.this), low, high)

    def _like(self, node: exp.Like) -> Expression:
        self._only(node, "this", "expression", "negate")
        found = self._call("like", self.read(node.this), self.read(node.expression))
        return self._call("not", found) if node.args.get("negate") else found

    def _case(self, node: exp.Case) -> Expression:
        self._only(node, "this", "ifs", "default")
        compared = self.read(node.this) if node.this else None
        arguments: list[Expression] = []
        for branch in node.args["ifs"]:
            condition = self.read(branch.this)
            if compared is not None:
                condition = self._call("equal", compared, condition)
            arguments += [condition, self.read(branch.args["true"])]
        default = node.args.get("default")
        arguments.append(self.read(default) if default is not None else Literal(NULL, None))
        return self._call("case", *arguments)

    def _cast(self, node: exp.Cast) -> Expression:
        self._only(node, "this", "to", "_type")
        return cast(self.read(node.this), self._type(node.to), fold=self._fold)

    def _type(self, node: exp.DataType) -> DataType:
        return DataType.parse(_type_text(node))

    def _function(self, node: exp.Anonymous) -> Expression:
        self._only(node, "this", "expressions")
        name = str(node.this)
        if name.lower() not in names():
            raise SpecError(f"'{name}' is no function.", hint=did_you_mean(name, names()))
        return self._call(name.lower(), *(self.read(argument) for argument in node.expressions))
