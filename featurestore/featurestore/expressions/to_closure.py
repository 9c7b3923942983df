"""The lowering to Python: one generated function per expression, over rows as dicts.

The source is made of our own templates, of names that we number and of constants that we hold; no text
of an author's gets into it, column names aside, which are written with `repr`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from featurestore.expressions import runtime
from featurestore.expressions.functions import FUNCTIONS, may_overflow, nullable
from featurestore.expressions.nodes import Call, Column, Expression, Literal, RowRejected
from featurestore.rows.identity import signed
from featurestore.types import integer_bounds

_NAMESPACE: dict[str, Any] = {
    name: value for name, value in vars(runtime).items() if callable(value) and not name.startswith("_")
} | {"bisect_right": bisect.bisect_right, "Decimal": Decimal, "RowRejected": RowRejected, "signed": signed}
_NESTED = 20  # Python's parser takes 200 parentheses, a level of ours has up to six


def to_closure(expression: Expression) -> Callable[[Mapping[str, Any]], Any]:
    """Return the function that gives the expression's value over a row.

    A row has all `expression.columns` as keys. Raises RowRejected where an integer overflows.
    """
    writer = Writer()
    columns = sorted(expression.columns)
    body = [f"    {writer.column(name)} = row[{name!r}]" for name in columns]
    body += writer.guarded([f"return {writer.result(expression)}"], expression, reason(expression))
    function: Callable[[Mapping[str, Any]], Any] = writer.compile("closure", "row", body)
    return function


def compile_value(expression: Expression, parameters: Sequence[str]) -> Callable[..., Any]:
    """Return the expression as a function of its columns by position. Raises runtime.Overflow."""
    writer = Writer()
    arguments = ", ".join(writer.column(name) for name in parameters)
    return writer.compile("value", arguments, [f"    return {writer.code(expression)}"])


def reason(expression: Expression) -> str:
    """Return why a row is rejected, the same for both lowerings."""
    return f"overflow: a number leaves its type's range in {expression.sql}"


class Writer:
    """Writes Python for typed nodes. Columns become local variables; constants, names that it holds."""

    def __init__(self) -> None:
        self._columns: dict[str, str] = {}
        self._held: dict[str, Any] = {}
        self._helpers: list[str] = []
        self._depths: dict[int, int] = {}  # by id, of parentheses within parentheses
        self._count = 0

    def column(self, name: str) -> str:
        """Return the local variable that stands for a column."""
        return self._columns.setdefault(name, f"c{len(self._columns)}")

    def constant(self, value: Any) -> str:
        """Return a name for a value that has no literal in Python."""
        name = self._name("k")
        self._held[name] = value
        return name

    def code(self, node: Expression) -> str:
        """Return a Python expression for the node's value, in parentheses or atomic."""
        if isinstance(node, Column):
            return self.column(node.name)
        if isinstance(node, Literal):
            plain = node.value is None or isinstance(node.value, (bool, int, str))
            finite = isinstance(node.value, float) and node.value - node.value == 0
            return f"({node.value!r})" if plain or finite else self.constant(node.value)
        assert isinstance(node, Call)
        function = FUNCTIONS[node.function]
        text = self._strict(node) if function.strict else self._own(node)
        depth = 1 + max((self._depths.get(id(argument), 0) for argument in node.arguments), default=0)
        if depth > _NESTED:
            text, depth = self._helper(node, text), 0
        self._depths[id(node)] = depth
        return text

    def result(self, expression: Expression) -> str:
        """Return `code` of a whole expression. A computed float is never -0.0."""
        text = self.code(expression)
        if isinstance(expression, Column) or not expression.type.is_float:
            return text
        name = self._name("t")
        return f"None if ({name} := {text}) is None else {name} + 0.0"

    def bind(self, node: Expression) -> tuple[str, str]:
        """Return Python that evaluates the node, and a name for its value from then on."""
        if isinstance(node, Literal):
            name = self.constant(node.value)
            return name, name
        text = self.code(node)
        if isinstance(node, Column):
            return text, text
        name = self._name("t")
        return f"({name} := {text})", name

    def guarded(self, lines: list[str], expression: Expression, why: str) -> list[str]:
        """Return the lines of a function's body, with overflow turned into RowRejected."""
        if not may_overflow(expression):
            return [f"    {line}" for line in lines]
        inner = [f"        {line}" for line in lines]
        return ["    try:", *inner, "    except Overflow:", f"        raise RowRejected({why!r}) from None"]

    def compile(self, name: str, parameters: str, body: list[str]) -> Callable[..., Any]:
        """Return the function of these lines."""
        source = "\n".join([*self._helpers, f"def {name}({parameters}):", *body])
        namespace = dict(_NAMESPACE) | self._held
        exec(compile(source, "<expression>", "exec"), namespace)
        function: Callable[..., Any] = namespace[name]
        return function

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _own(self, node: Call) -> str:
        python = FUNCTIONS[node.function].python
        assert callable(python)
        return python(self, node)

    def _strict(self, node: Call) -> str:
        function = FUNCTIONS[node.function]
        tests, names = [], []
        for argument in node.arguments:
            literal = isinstance(argument, Literal) and argument.value is not None
            first, again = (self.code(argument),) * 2 if literal else self.bind(argument)
            names.append(again)
            if first != again or nullable(argument):
                tests.append(f"{first} is None")
        if callable(function.python):
            value = function.python(self, node, *names)
        else:
            value = function.python.format(*names)
        if function.checked and function.overflows(node):
            low, high = integer_bounds(node.type)
            name = self._name("t")
            value = f"({name} if {low} <= ({name} := {value}) <= {high} else overflow())"
        if not tests:
            return f"({value})"
        if any(map(may_overflow, node.arguments[1:])):  # all are evaluated, as over frames
            return f"(None if {' | '.join(f'({test})' for test in tests)} else {value})"
        return f"(None if {' or '.join(tests)} else {value})"

    def _helper(self, node: Expression, text: str) -> str:
        """Return a call of a function of its own, for what nests too deep for Python's parser."""
        name = self._name("h")
        columns = ", ".join(self.column(column) for column in sorted(node.columns))
        self._helpers += [f"def {name}({columns}):", f"    return {text}"]
        return f"{name}({columns})"
