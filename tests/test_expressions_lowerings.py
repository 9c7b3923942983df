"""Polars and the closure give the same bits: each function over all edges of its types, and trees of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.lowerings import EDGES, assert_equal

from featurestore.errors import SpecError
from featurestore.expressions import Call, Expression
from featurestore.expressions.functions import FUNCTIONS
from featurestore.expressions.parser import parse
from featurestore.expressions.to_polars import to_polars
from featurestore.instants import ALWAYS, DAY, LAST
from featurestore.json_documents import of_value
from featurestore.types import DataType, integer_bounds

NUMBERS = ["int64", "int8", "uint64", "float64", "float32", "decimal(10,2)"]
INTEGER_TYPES = ["int8", "uint8", "int32", "int64", "uint64"]
ALIAS = {"document": "string", "degrees": "float64"}  # pools of edges of their own
ITEMS = ["json", "string", "int64", "float64", "decimal(10,2)", "timestamp", "date", "bool", "list<int8>"]
ORDERED = [*NUMBERS, "bool", "string", "timestamp", "date", "binary"]
CASTS = [
    f"cast(a as {target})"
    for target in (*INTEGER_TYPES, "int16", "float64", "float32", "bool", "string", "date", "timestamp")
] + ["cast(a as decimal(10,2))", "cast(a as decimal(38,4))", "cast(a as decimal(5,0))"]
ZONES = [
    "",
    ", 'UTC'",
    ", 'Europe/Berlin'",
    ", 'America/St_Johns'",
    ", 'Pacific/Apia'",
    ", 'Africa/Monrovia'",
]
PARTS = ["hour", "minute", "second", "day_of_week", "day", "week", "month", "quarter", "year", "is_weekend"]


def pairs(
    texts: Sequence[str], left: Sequence[str], right: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    return [(text, (a, b)) for text in texts for a in left for b in right]


def singles(texts: Sequence[str], kinds: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(text, (kind,)) for text in texts for kind in kinds]


CASES = [
    *pairs(
        ["a + b", "a - b", "a * b", "a / b", "a % b", "power(a, b)"], NUMBERS, ["int64", "float64", "int8"]
    ),
    *pairs(["a + b", "a * b", "a % b"], ["uint64"], ["uint64"]),
    *pairs(
        ["a = b", "a <> b", "a < b", "a <= b", "a > b", "a >= b"], NUMBERS, ["int64", "float64", "uint64"]
    ),
    *[(f"a {op} b", (kind, kind)) for op in ("=", "<>", "<", "<=", ">", ">=") for kind in ORDERED],
    *[
        (f"{name}(a, b)", (kind, kind))
        for name in ("least", "greatest", "nullif", "coalesce")
        for kind in ORDERED
    ],
    *pairs(
        ["least(a, b, a)", "greatest(b, a)", "nullif(a, b)", "coalesce(a, b)"], NUMBERS, ["float64", "int64"]
    ),
    *pairs(["a and b", "a or b", "if(a, b, not b)", "a = b", "(a is null) or b"], ["bool"], ["bool"]),
    *singles(["a is true", "a is not false", "not a", "case when a then 1 end"], ["bool"]),
    *singles(["a is null", "a is not null", "coalesce(a, a)", "nullif(a, a)"], [*ORDERED, "decimal(38,4)"]),
    *singles(
        [
            "-a",
            "abs(a)",
            "ln(a)",
            "log10(a)",
            "log2(a)",
            "exp(a)",
            "sqrt(a)",
            "floor(a)",
            "ceil(a)",
            "round(a)",
        ],
        [*NUMBERS, "int32"],
    ),
    *singles(["round(a, 2)", "round(a, 15)", "sign(a)", "is_nan(a)", "a * a - 1", "power(a, 2)"], NUMBERS),
    *singles(["power(a, 0.5)", "power(2, a)", "power(a, -1)", "power(a, 3)"], ["float64", "int64"]),
    *singles(
        ["a > 0.5", "1 < a", "a = 0", "a <> -1", "a <= 5", "a between -1 and 2", "a in (1, 0)"], NUMBERS
    ),
    *singles(["a in (1, 2.5)", "a not in (0.0)", "a in (1, null)", "a = 0.1", "bin(a, 0.5, 2)"], ["float64"]),
    *singles(
        ["bin(a, -1, 0, 5)", "lookup(a, a, 1, 5, 0, 7)", "lookup(a, null, 1, 2.5)"], ["int64", "float64"]
    ),
    *singles(["lookup(a, a, 'a', 'b', '', 'x')", "a in ('a', '', 'abc')", "a > 'b'", "a = ''"], ["string"]),
    *singles(["length(a)", "lower(a)", "upper(a)", "trim(a)", "a || 'x' || a", "concat(a)"], ["string"]),
    *singles(["a like 'a%'", "a like '_'", "a like '%.%'", "a like ''", "a not like '%\n'"], ["string"]),
    *singles(
        ["replace(a, 'a', 'bb')", "replace(a, '.', a)", "substring(a, 2)", "substring(a, 0, 2)"], ["string"]
    ),
    *pairs(
        ["a || b", "starts_with(a, b)", "ends_with(a, b)", "contains(a, b)", "a < b"], ["string"], ["string"]
    ),
    *pairs(["substring(a, b)", "substring(a, 2, b)", "substring(a, b, 2)"], ["string"], ["int64", "int8"]),
    *[(text, ("string", "int64", "int64")) for text in ("substring(a, b, c)",)],
    *singles(
        CASTS, ["int64", "int8", "uint64", "float64", "float32", "decimal(10,2)", "decimal(38,4)", "string"]
    ),
    *singles(CASTS[:9], ["bool"]),
    *singles(["cast(a as timestamp)", "cast(a as string)"], ["date", "timestamp"]),
    *singles(
        ["cast(a as date)", "a >= '2024-01-01T00:00:00Z'", "a in ('1970-01-01T00:00:00Z')"], ["timestamp"]
    ),
    *singles(["a > date '2024-02-28'", "bin(a, '2024-01-01')"], ["date"]),
    *singles([f"{part}(a{zone})" for part in PARTS for zone in ZONES], ["timestamp"]),
    *singles([f"{part}(a)" for part in PARTS[3:]], ["date"]),
    *pairs(["seconds_between(a, b)"], ["timestamp"], ["timestamp"]),
    *pairs(["a > 1.5 and b < 2", "a = 1.50"], ["decimal(10,2)"], ["decimal(38,4)"]),
    *singles(["a is null", "coalesce(a, a)", "case when a is null then a else a end"], ["json"]),
    *singles(CASTS, ["json"]),
    *singles([f"cast(a as list<{item}>)" for item in ITEMS], ["json"]),
    *singles(
        [
            f"json_extract(a, '{path}')"
            for path in ("$", "$.a", "$.a.b", "$.b[0]", "$[-1]", "$[3]", '$["é f"][1]', '$[""][""]', "$[0].a")
        ],
        ["json", "document", "string"],
    ),
    *singles(
        ["cast(json_extract(a, '$.a') as int64)", "cast(json_extract(a, '$.b') as list<int64>)"],
        ["json", "document"],
    ),
    *singles(["cast(a as json)", "cast(cast(a as json) as string)"], ["document", "string"]),
    *singles(["length(a)", "a is null"], ["list<string>"]),
    *singles(["matches(a, 'a')", "matches(a, '\\w+')", "matches(a, '(?i)ES_.*|x$')"], ["string"]),
    *singles(["tokens(a)", "tokens(a, '.')", "tokens(a, 'a')", "length(tokens(a))"], ["string"]),
    *singles(
        [
            "regex_extract(a, '\\d+')",
            "regex_extract(a, '([0-9]+)-([0-9]+)', 2)",
            "regex_extract(a, '(x)|(a)')",
            "regex_extract(a, '^.*$', 0)",
            "matches(a, '[a-z]*')",
            "matches(a, '.*')",
        ],
        ["string"],
    ),
    *singles(
        ["hash(a)", "hash_bucket(7, a)", "hash_bucket(9223372036854775807, a)", "hash(a, 'x', a)"],
        [*ORDERED, "int32", "uint8", "decimal(38,4)", "json", "list<string>"],
    ),
    *pairs(["hash(a, b)", "hash_bucket(10, b, a)"], ["string", "float64"], ["int64", "timestamp"]),
    *pairs(["haversine(a, b, 52.52, 13.405)", "haversine(b, a, a, b, 'mi')"], ["degrees"], ["degrees"]),
    *singles(["haversine(a, 0, 0, a, 'm')"], ["int64", "float32", "decimal(10,2)"]),
]


@pytest.mark.parametrize(("text", "kinds"), CASES, ids=lambda value: str(value).replace("\n", "_"))
def test_every_function_agrees_over_all_edges_of_its_types(text: str, kinds: tuple[str, ...]) -> None:
    names = "abc"[: len(kinds)]
    schema = {name: DataType.parse(ALIAS.get(kind, kind)) for name, kind in zip(names, kinds, strict=True)}
    try:
        expression = parse(text, schema)
    except SpecError as error:
        refused = str(error)
        assert "cannot be cast" in refused  # the matrix of casts has holes
        return
    pools = [EDGES[kind] for kind in kinds]
    if len(kinds) == 3:
        pools = [pools[0], pools[1][::2], pools[2][::2]]
    rows = [dict(zip(names, values, strict=True)) for values in itertools.product(*pools)]
    assert_equal(expression, schema, rows)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON_TEXT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", ""]) | TEXT, inner)
    ),
    max_leaves=6,
)


def generated(kind: str) -> st.SearchStrategy[Any]:
    """Return values of a type, the edges among them."""
    if kind.startswith("decimal"):
        precision, scale = (int(part) for part in kind[8:-1].split(","))
        whole = st.integers(-(10**precision) + 1, 10**precision - 1)
        made: st.SearchStrategy[Any] = whole.map(
            lambda value: Decimal(value).scaleb(-scale, Context(prec=50))
        )
    elif kind.startswith(("int", "uint")):
        made = st.integers(*integer_bounds(DataType.parse(kind)))
    else:
        made = {
            "float64": st.floats() | st.floats(-1e3, 1e3),
            "float32": st.floats(width=32),
            "degrees": st.floats(-400, 400),
            "bool": st.booleans(),
            "string": TEXT | st.from_regex(r"[-+]?[0-9]{1,20}(\.[0-9]{1,3})?", fullmatch=True),
            "document": JSON_TEXT.map(json.dumps) | TEXT,
            "json": JSON_TEXT.map(of_value),
            "timestamp": st.integers(ALWAYS, LAST) | st.integers(-(2**63), 2**63 - 1),
            "date": st.integers(ALWAYS // DAY, LAST // DAY) | st.integers(-(2**31), 2**31 - 1),
            "binary": st.binary(max_size=9),
            "list<string>": st.lists(st.none() | TEXT, max_size=3),
        }[kind]
    return st.one_of(st.sampled_from(EDGES[kind]), made)


def functions_of(node: Expression) -> set[str]:
    """Return the names of all functions in an expression."""
    if not isinstance(node, Call):
        return set()
    return {node.function}.union(*map(functions_of, node.arguments))


def typed(text: str, kinds: tuple[str, ...]) -> tuple[Expression, dict[str, DataType]] | None:
    """Return a case's expression and columns; None where the matrix of casts has a hole."""
    names = zip("abc", kinds, strict=False)
    schema = {name: DataType.parse(ALIAS.get(kind, kind)) for name, kind in names}
    try:
        return parse(text, schema), schema
    except SpecError:
        return None


REACHING: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
for case in CASES:
    if (found := typed(*case)) is not None:
        for function in functions_of(found[0]):
            REACHING.setdefault(function, []).append(case)


def test_the_cases_reach_every_function_of_the_table() -> None:
    """`known` is not written in text; test_steps_equality.py has it, as `unknown: reject`."""
    assert set(REACHING) == set(FUNCTIONS) - {"known"}


@pytest.mark.parametrize("function", sorted(REACHING))
@given(st.data())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_function_agrees_over_generated_values(function: str, data: st.DataObject) -> None:
    text, kinds = data.draw(st.sampled_from(REACHING[function]))
    made = typed(text, kinds)
    assert made is not None
    row = st.fixed_dictionaries({name: generated(kind) for name, kind in zip("abc", kinds, strict=False)})
    assert_equal(*made, data.draw(st.lists(row, min_size=1, max_size=20)))


SCHEMA = {
    "i": DataType("int64"),
    "j": DataType("int8"),
    "u": DataType("uint64"),
    "x": DataType("float64"),
    "y": DataType("float64"),
    "s": DataType("string"),
    "p": DataType("bool"),
    "t": DataType("timestamp"),
}


def edged(kind: str, any_value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(EDGES[kind]), any_value)


ROWS = st.fixed_dictionaries(
    {
        "i": edged("int64", st.integers(-(2**63), 2**63 - 1)),
        "j": edged("int8", st.integers(-128, 127)),
        "u": edged("uint64", st.integers(0, 2**64 - 1)),
        "x": edged("float64", st.floats()),
        "y": edged("float64", st.floats(-1e6, 1e6)),
        "s": edged("string", st.text(st.characters(exclude_categories=["Cs"]), max_size=6)),
        "p": edged("bool", st.none()),
        "t": edged("timestamp", st.integers(ALWAYS, LAST)),
    }
)


@st.composite
def trees(draw: st.DrawFn, kind: str, depth: int) -> str:
    """Draw SQL text of a kind: int, float, bool, text or time."""
    leaves = {
        "int": ["i", "j", "u", "3", "-1", "9223372036854775807", "0"],
        "float": ["x", "y", "0.5", "2.0", "-1.25"],
        "bool": ["p", "true", "false"],
        "text": ["s", "'a'", "''"],
        "time": ["t", "timestamp '2024-03-31T00:59:59.999999Z'"],
    }
    if depth == 0:
        return draw(st.sampled_from(leaves[kind]))

    def sub(of: str) -> str:
        return draw(trees(of, depth - 1))

    number = draw(st.sampled_from(["int", "float"]))
    anything = draw(st.sampled_from(["int", "float", "bool", "text", "time"]))
    if draw(st.booleans()):
        choice = draw(st.sampled_from(["case", "if", "coalesce", "nullif", "case2"]))
        if choice == "case":
            return f"case when {sub('bool')} then {sub(kind)} else {sub(kind)} end"
        if choice == "case2":
            return f"case {sub(anything)} when {sub(anything)} then {sub(kind)} end"
        if choice == "if":
            return f"if({sub('bool')}, {sub(kind)}, {sub(kind)})"
        return f"{choice}({sub(kind)}, {sub(kind)})"
    if kind == "int":
        return draw(
            st.sampled_from(
                [
                    lambda: f"({sub('int')} + {sub('int')})",
                    lambda: f"({sub('int')} - {sub('int')})",
                    lambda: f"({sub('int')} * {sub('int')})",
                    lambda: f"({sub('int')} % {sub('int')})",
                    lambda: f"-({sub('int')})",
                    lambda: f"abs({sub('int')})",
                    lambda: f"cast({sub('float')} as int64)",
                    lambda: f"cast({sub('int')} as int8)",
                    lambda: f"length({sub('text')})",
                    lambda: f"hour({sub('time')}, 'Europe/Berlin')",
                    lambda: f"year({sub('time')})",
                    lambda: f"bin({sub(number)}, 0, 5)",
                    lambda: f"hash({sub(anything)}, {sub(anything)})",
                    lambda: f"hash_bucket(7, {sub(anything)})",
                    lambda: f"length(tokens({sub('text')}))",
                    lambda: f"cast(json_extract({sub('text')}, '$[0]') as int64)",
                ]
            )
        )()
    if kind == "float":
        return draw(
            st.sampled_from(
                [
                    lambda: f"({sub('float')} + {sub(number)})",
                    lambda: f"({sub(number)} / {sub(number)})",
                    lambda: f"({sub('float')} * {sub(number)})",
                    lambda: f"({sub('float')} % {sub('float')})",
                    lambda: f"ln({sub(number)})",
                    lambda: f"exp({sub(number)})",
                    lambda: f"power({sub(number)}, {sub(number)})",
                    lambda: f"sqrt({sub(number)})",
                    lambda: f"log10({sub(number)})",
                    lambda: f"round({sub('float')}, 2)",
                    lambda: f"floor({sub('float')})",
                    lambda: f"greatest({sub('float')}, {sub(number)})",
                    lambda: f"seconds_between({sub('time')}, {sub('time')})",
                    lambda: f"cast({sub('text')} as float64)",
                    lambda: f"haversine({sub('float')}, {sub(number)}, {sub('float')}, 1)",
                    lambda: f"least({sub('float')}, {sub(number)})",
                    lambda: f"sign({sub('float')})",
                ]
            )
        )()
    if kind == "bool":
        return draw(
            st.sampled_from(
                [
                    lambda: f"({sub('bool')} and {sub('bool')})",
                    lambda: f"({sub('bool')} or {sub('bool')})",
                    lambda: f"not ({sub('bool')})",
                    lambda: f"({sub(anything)} is null)",
                    lambda: f"({sub(anything)} < {sub(anything)})",
                    lambda: f"({sub(anything)} = {sub(anything)})",
                    lambda: f"({sub('int')} > {sub('float')})",
                    lambda: f"{sub('int')} in (1, 2, null)",
                    lambda: f"{sub(number)} between {sub(number)} and {sub(number)}",
                    lambda: f"contains({sub('text')}, {sub('text')})",
                    lambda: f"({sub('bool')}) is true",
                    lambda: f"is_nan({sub('float')})",
                ]
            )
        )()
    if kind == "text":
        return draw(
            st.sampled_from(
                [
                    lambda: f"({sub('text')} || {sub('text')})",
                    lambda: f"lower({sub('text')})",
                    lambda: f"substring({sub('text')}, {sub('int')}, 2)",
                    lambda: f"cast({sub(anything)} as string)",
                    lambda: f"regex_extract({sub('text')}, '[0-9a]+')",
                    lambda: f"cast(cast({sub('text')} as json) as string)",
                    lambda: f"trim(replace({sub('text')}, 'a', {sub('text')}))",
                ]
            )
        )()
    return f"cast(cast({sub('time')} as date) as timestamp)"


@given(
    text=st.sampled_from(["int", "float", "bool", "text", "time"]).flatmap(lambda kind: trees(kind, 3)),
    rows=st.lists(ROWS, min_size=1, max_size=12),
)
@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_trees_of_functions_agree_and_their_text_reads_back(text: str, rows: list[dict[str, Any]]) -> None:
    try:
        expression = parse(text, SCHEMA)
    except SpecError as error:
        refused = str(error)
        known = any(part in refused for part in ("does not fit", "always null", "needed here"))
        assert known, refused  # a constant part that overflows, or that is null throughout
        return
    assert_equal(expression, SCHEMA, rows)
    assert parse(expression.sql, SCHEMA).sql == expression.sql


def test_empty_frames_give_empty_columns() -> None:
    frame = pl.DataFrame(schema={name: kind.polars() for name, kind in SCHEMA.items()})
    for text in ("power(x, y)", "x % y", "hour(t, 'Europe/Berlin')", "lower(s)", "greatest(x, 1)", "i + j"):
        assert frame.select(to_polars(parse(text, SCHEMA))).height == 0
