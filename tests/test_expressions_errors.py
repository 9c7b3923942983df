"""Errors of expressions say what, where and what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from featurestore.errors import SpecError
from featurestore.expressions import parse
from featurestore.types import DataType

SCHEMA = {
    "amount": DataType("float64"),
    "count": DataType("int64"),
    "name": DataType("string"),
    "fraud": DataType("bool"),
    "at": DataType("timestamp"),
    "tags": DataType.parse("list<string>"),
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amout + 1", "There is no column 'amout', in `amout + 1`. Did you mean 'amount'?"),
        ("lnn(amount)", "'lnn' is no function, in `lnn(amount)`. Did you mean 'ln'?"),
        ("ln(name)", 'ln("name"): needs a number, found string; write it as cast(… as float64), in `ln('),
        ("name + 1", '("name" + 1): needs a number, found string; write it as cast(… as float64)'),
        ("at - at", "found timestamp; use seconds_between(a, b)"),
        ("ln(amount, 2)", "ln takes 1 argument, found 2, in `ln(amount, 2)`. Write ln(x)"),
        ("round()", "round takes 1 to 2 arguments, found 0"),
        ("round(amount, count)", 'needs the number of digits written out, found "count"'),
        ("amount and fraud", "needs a condition (bool), found float64"),
        ("case when amount then 1 end", "needs a condition (bool) after when, found float64"),
        ("if(fraud, name, amount)", "these types do not go together: string, float64"),
        ("name = 1", "these types do not go together: string, int64 1"),
        ("amount > 'x'", "these types do not go together: float64, string 'x'"),
        (
            "at > '2024-01-01'",
            "'2024-01-01' is no timestamp; write it as 2026-11-21T10:00:00Z, with",
        ),
        ("hour(name)", "needs a timestamp, found string"),
        ("hour(at, 'Europe/Berln')", "'Europe/Berln' is no time zone. Did you mean 'Europe/Berlin'?"),
        ("cast(amount as int46)", "'int46' is no type, in `cast(amount as int46)`. Did you mean 'int64'?"),
        ("cast(tags as string)", "cannot be cast to string"),
        ("replace(name, '', 'x')", "the text to replace is empty"),
        ("name like name", "needs the pattern written out"),
        ("amount +", "The expression cannot be read at"),
        ("amount )", "The expression cannot be read at ')'"),
        ("name = 'x", "or a quote open?"),
        ("", "cannot be read"),
        ("null", "The expression is always null"),
        ("9223372036854775807 + 1", "(9223372036854775807 + 1) does not fit int64"),
        ("99999999999999999999", "does not fit 64 bits"),
        ("sum(amount)", "'sum' is no function"),
        ("select amount", "cannot be read at 'amount' (character 8)"),
        ("count(*)", "'count' is no function"),
        ("amount; count", "is not part of the expression language"),
        ("(select 1)", "cannot be read at '1' (character 9)"),
        ("sum(amount) over ()", "cannot be read at 'over'"),
        ("amount as x", "cannot be read at 'as' (character 8)"),
        ("amount[1]", "is not part of the expression language"),
        ("now() > at", "'now' is no function"),
        ("current_timestamp > at", "a step is a function of its row alone"),
        ("name in (select 1)", "cannot be read at '1'"),
        ("widen(amount)", "'widen' is no function"),
        ("tags < tags", "lists have no order"),
        (" + ".join(["amount"] * 150), "nests more than 100 deep"),
        ("(" * 3000 + "amount" + ")" * 3000, "deep"),
        ("not " * 3000 + "fraud", "deep"),
    ],
)
def test_message(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text, SCHEMA, where="specs/payments.yaml:14")
    assert str(error.value).startswith("specs/payments.yaml:14: ")
    assert message in str(error.value)


def test_a_column_named_like_a_word_of_the_language_is_quoted() -> None:
    with pytest.raises(SpecError, match='Write "case" in double quotes'):
        parse("case + 1", {"case": DataType("int64")})
    assert parse('"case" + 1', {"case": DataType("int64")}).columns == {"case"}


@pytest.mark.parametrize(
    "name", ["show", "order", "select", "comment", "set", "left", "values", "date", "end", "from"]
)
def test_other_words_are_columns_as_they_are(name: str) -> None:
    assert parse(f"{name} + 1 > {name}", {name: DataType("int64")}).columns == {name}


def test_author_text_cannot_reach_the_generated_code() -> None:
    """A column with a hostile name is a key of the row, and a string stays a string."""
    from featurestore.expressions.to_closure import to_closure

    hostile = "'] + __import__('os').system('false') + row['"
    assert to_closure(parse(f'"{hostile}" + 1', {hostile: DataType("int64")}))({hostile: 1}) == 2
    assert to_closure(parse("name || '\"]\n{0}'", SCHEMA))({"name": "a"}) == 'a"]\n{0}'


def test_importing_expressions_and_steps_loads_no_heavy_library() -> None:
    code = (
        "import sys, featurestore.expressions, featurestore.expressions.to_closure, featurestore.steps.rows;"
        "heavy = ('polars', 'sqlglot', 'pyarrow', 'duckdb', 'deltalake');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
