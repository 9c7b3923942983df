"""A feature set compiles to keys, row-level features and aggregates, and to fingerprints of what it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from featurestore.aggregates import result_type
from featurestore.compiler import CompiledProject, compile_declarations, compile_project
from featurestore.compiler.aggregations import category_name
from featurestore.instants import DAY, HOUR
from featurestore.plans import KeyColumn, SetPlan, Window
from featurestore.specs import (
    Aggregation,
    Declaration,
    Entity,
    FeatureSet,
    Loaded,
    Origin,
    Source,
    load_project,
)
from featurestore.types import FLOAT64, INT64, STRING, DataType, Field

SCHEMA = {
    "id": "string",
    "who": "string",
    "shop": "int32",
    "at": "timestamp",
    "known": "timestamp",
    "amount": "float64",
    "quantity": "int64",
    "category": "string",
    "fraud": "bool",
}


def compiled(*declarations: Declaration) -> CompiledProject:
    return compile_declarations("p", [Loaded(item, Origin(f"{item.kind}.yaml", 1)) for item in declarations])


def source(**changes: object) -> Source:
    fields = {"name": "payments", "schema": SCHEMA, "event_time": "at", **changes}
    return Source.model_validate(fields)


def spending(**changes: object) -> FeatureSet:
    fields = {"name": "spending", "entities": [{"customer": "who"}], "source": "payments", **changes}
    return FeatureSet.model_validate(fields)


CUSTOMER = Entity(name="customer", key="customer_id")
SHOP = Entity(name="shop", type="int64")


def plan(feature_set: FeatureSet, read: Source | None = None) -> SetPlan:
    return compiled(CUSTOMER, SHOP, read or source(), feature_set).sets["spending"]


def names(feature_set: FeatureSet) -> list[str]:
    return [aggregate.name for aggregate in plan(feature_set).aggregates]


def test_features_are_the_columns_after_the_steps_less_keys_times_and_ids() -> None:
    found = plan(
        spending(steps=[{"derive": {"double": "amount * 2"}}, {"drop": ["quantity"]}]),
        source(event_id="id", ingest_time="known"),
    )
    assert found.plain == (
        Field("shop", DataType("int32")),
        Field("amount", FLOAT64),
        Field("category", STRING),
        Field("fraud", DataType("bool")),
        Field("double", FLOAT64),
    )
    assert [field.name for field in found.columns] == [*SCHEMA, "double"]  # what drop left out stays


def test_keys_are_the_entities_columns_and_types_in_the_declared_order() -> None:
    found = plan(spending(entities=["shop", {"customer": "who"}]))
    assert found.keys == (
        KeyColumn("shop", "shop", INT64, "shop"),
        KeyColumn("customer", "who", STRING, "customer_id"),
    )


def test_a_whole_number_key_may_come_from_a_float_column() -> None:
    assert plan(spending(entities=[{"shop": "amount"}])).keys[0].type == INT64


def test_aggregates_are_named_by_column_function_and_window_as_written() -> None:
    assert names(
        spending(
            aggregations=[
                {"column": "amount", "functions": ["avg", "sum"], "windows": ["2h", "24h"]},
                {"functions": ["count"], "windows": ["1h"]},
                {"functions": ["count"], "windows": ["1h"], "where": "fraud", "name": "frauds"},
                {"column": "amount", "functions": ["last_k"], "windows": ["14d"], "k": 5},
            ]
        )
    ) == [
        "amount_avg_2h",
        "amount_avg_24h",
        "amount_sum_2h",
        "amount_sum_24h",
        "count_1h",
        "frauds_count_1h",
        "amount_last_k_14d",
    ]


def test_by_category_the_value_takes_the_columns_place_and_name_goes_before_it() -> None:
    by = {"by": "category", "values": ["es_food", "es travel/hotel"]}
    assert names(
        spending(
            aggregations=[
                {**by, "functions": ["count"], "windows": ["14d"]},
                {**by, "column": "amount", "functions": ["sum"], "windows": ["14d"], "name": "paid"},
            ]
        )
    ) == [
        "es_food_count_14d",
        "es_travel_hotel_count_14d",
        "paid_es_food_sum_14d",
        "paid_es_travel_hotel_sum_14d",
    ]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("food", "food"),
        ("Food & Drink", "Food_Drink"),
        ("0", "c_0"),
        ("", "c_blank"),
        ("é", "c_other"),
        ("__x", "c___x"),
        (1, "c_1"),
        (-1, "c_minus_1"),
        (True, "c_true"),
    ],
)
def test_a_category_reads_as_part_of_a_name(value: str | int | bool, name: str) -> None:
    assert category_name("c", value) == name


def test_an_aggregate_keeps_all_that_decides_its_value() -> None:
    found = plan(
        spending(
            steps=[{"drop": ["fraud"]}],
            aggregations=[
                {
                    "column": "quantity",
                    "by": "fraud",
                    "values": [True],
                    "where": "amount > 0",
                    "functions": ["sum"],
                    "windows": ["2d"],
                    "granularity": "1h",
                    "offset": "1d",
                }
            ],
        )
    ).aggregates[0]
    assert found.name == "fraud_true_sum_2d"
    assert (found.function, found.type, found.k) == ("sum", INT64, None)
    assert (found.input.column, found.input.type) == ("quantity", INT64)
    assert (found.input.by, found.input.value) == ("fraud", True)
    assert found.input.where is not None
    assert found.input.where.columns == {"amount"}
    assert found.window == Window(2 * DAY, left_closed=False, granularity=HOUR, offset=DAY)


def test_closed_of_the_set_holds_for_aggregations_unless_they_say_otherwise() -> None:
    found = plan(
        spending(
            closed="left",
            aggregations=[
                {"column": "amount", "functions": ["sum"], "windows": ["1h"]},
                {"column": "amount", "functions": ["sum"], "windows": ["2h"], "closed": "right"},
            ],
        )
    )
    assert found.left_closed
    assert [aggregate.window.left_closed for aggregate in found.aggregates] == [True, False]


def test_history_and_ttl_are_microseconds_and_all_is_none() -> None:
    assert (plan(spending()).history, plan(spending()).ttl) == (HOUR, None)
    assert (plan(spending(history="all")).history, plan(spending(ttl="1d")).ttl) == (None, DAY)


def test_a_set_chained_to_another_reads_its_source_through_its_steps() -> None:
    parent = spending(steps=[{"derive": {"double": "amount * 2"}}, {"select": ["double"]}])
    child = FeatureSet.model_validate(
        {
            "name": "shops",
            "entities": ["shop"],
            "source": "spending",
            "steps": [{"derive": {"four": "double * 2"}}],
            "aggregations": [{"column": "amount", "functions": ["sum"], "windows": ["1h"]}],
        }
    )
    found = compiled(child, CUSTOMER, SHOP, source(), parent)
    assert found.sets["shops"].source == found.sources["payments"]
    assert [field.name for field in found.sets["shops"].features] == ["double", "four", "amount_sum_1h"]
    direct = child.model_copy(update={"source": "payments", "steps": parent.steps + child.steps})
    assert compiled(CUSTOMER, SHOP, source(), direct).sets["shops"] == found.sets["shops"]


def test_a_python_step_may_be_in_the_projects_folder(tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text("project: p\n")
    (tmp_path / "scoring_of_this_test.py").write_text(
        "def double(frame):\n    return frame.select('amount')\n"
    )
    (tmp_path / "specs.py").write_text(
        "from featurestore.specs import Entity, FeatureSet, Source\n"
        "customer = Entity(name='customer')\n"
        "payments = Source(name='payments', event_time='at',\n"
        "    schema={'at': 'timestamp', 'customer': 'string', 'amount': 'float64'})\n"
        "spending = FeatureSet(name='spending', entities=[customer], source=payments, steps=[{'python':\n"
        "    {'function': 'scoring_of_this_test:double', 'outputs': {'twice': 'float64'}}}])\n"
    )
    path = list(sys.path)
    found = compile_project(load_project(tmp_path, environ={})).sets["spending"]
    assert [field.name for field in found.features] == ["amount", "twice"]
    assert sys.path == path


def test_an_inline_source_is_a_source_and_the_same_one_twice_is_one() -> None:
    inline = spending(source=source())
    other = inline.model_copy(update={"name": "other"})
    assert list(compiled(CUSTOMER, inline, other, source()).sources) == ["payments"]


BASE = spending(
    steps=[{"derive": {"double": "amount * 2"}}],
    aggregations=[{"column": "amount", "functions": ["sum"], "windows": ["1h"]}],
)


def same(feature_set: FeatureSet, read: Source | None = None) -> tuple[bool, bool]:
    """Return whether the rows' and the state's fingerprints are those of BASE."""
    before, after = plan(BASE), plan(feature_set, read)
    assert len(after.rows_fingerprint) == len(after.state_fingerprint) == 12
    return (
        before.rows_fingerprint == after.rows_fingerprint,
        before.state_fingerprint == after.state_fingerprint,
    )


def test_fingerprints_change_with_what_they_stand_for_and_with_nothing_else() -> None:
    longer = Aggregation(column="amount", functions=("sum",), windows=("1h", "2h"))
    assert same(BASE.model_copy(update={"description": "words", "tags": ("x",)})) == (True, True)
    assert same(BASE, source(description="words", future="1h")) == (True, True)
    assert same(BASE.model_copy(update={"aggregations": (longer,)})) == (True, False)
    for change in ({"closed": "left"}, {"history": "all"}, {"ttl": "1d"}):
        assert same(BASE.model_copy(update=change)) == (True, False)
    assert same(BASE.model_copy(update={"steps": ()})) == (False, False)
    for changed in (
        source(event_id="id"),
        source(delay="1h"),
        source(timezone="Europe/London"),
        source(name="payments", schema={**SCHEMA, "quantity": "int32"}),
        source(batch={"kind": "parquet", "path": "elsewhere"}),
    ):
        assert same(BASE, changed) == (False, False)


def test_the_key_is_part_of_the_rows() -> None:
    assert same(BASE.model_copy(update={"entities": ({"customer": "category"},)})) == (False, False)


def test_fingerprints_do_not_depend_on_the_project_or_the_order_of_declarations() -> None:
    first = compile_declarations("a", [Loaded(x, Origin("a")) for x in (CUSTOMER, source(), BASE)])
    second = compile_declarations("b", [Loaded(x, Origin("b")) for x in (BASE, source(), CUSTOMER)])
    assert first.sets["spending"] == dataclasses.replace(second.sets["spending"], project="a")


def test_a_fingerprint_is_the_start_of_the_sha256_of_canonical_json() -> None:
    """Changing this orphans every table and generation that users have."""
    found = plan(spending(aggregations=[{"functions": ["count"], "windows": ["1h"]}]))

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    schema = ",".join(f'["{name}","{kind}"]' for name, kind in SCHEMA.items())
    read = digest(
        '{"batch":null,"cutover":null,"delay":0,"deleted":null,"event_id":[],"event_time":"at",'
        '"ingest_time":null,"name":"payments","on_duplicate":"first","order_by":null,'
        f'"schema":[{schema}],"stream":null,"timezone":null}}'
    )
    rows = digest(
        '{"keys":[["who","string"]],"source":"' + read + '","steps":' + json.dumps(found.steps.text) + "}"
    )
    state = digest(
        '{"aggregates":[["count_1h","count",null,null,null,null,null,3600000000,false,null,0,null]],'
        '"closed":"right","entities":["customer"],"history":3600000000,"rows":"' + rows + '","ttl":null}'
    )
    assert (found.source.fingerprint, found.rows_fingerprint, found.state_fingerprint) == (read, rows, state)


def test_functions_take_the_parameters_that_they_have_and_their_defaults() -> None:
    [declared] = spending(
        aggregations=[
            {
                "column": "amount",
                "functions": ["top_k", "lag", "decay_sum", "approx_percentile", "sum"],
                "windows": ["1h"],
                "k": 3,
                "half_life": "30m",
                "percentile": 0.95,
            }
        ]
    ).aggregations
    found = plan(spending(aggregations=[declared])).aggregates
    assert [(a.function, a.k, a.half_life, a.percentile) for a in found] == [
        ("top_k", 3, None, None),
        ("lag", 3, None, None),
        ("decay_sum", None, HOUR // 2, None),
        ("approx_percentile", None, None, 0.95),
        ("sum", None, None, None),
    ]
    lag = {"column": "amount", "functions": ["lag", "diff"], "windows": ["1h"]}
    assert [a.k for a in plan(spending(aggregations=[lag])).aggregates] == [1, 1]


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ({"functions": ["top_k"], "k": 2}, {"k": 3}),
        ({"functions": ["decay_avg"], "half_life": "1h"}, {"half_life": "2h"}),
        ({"functions": ["approx_percentile"], "percentile": 0.5}, {"percentile": 0.9}),
        ({"functions": ["sum"]}, {"windows": ["lifetime"]}),
    ],
)
def test_parameters_and_windows_are_part_of_the_state_and_not_of_the_rows(
    given: dict[str, Any], other: dict[str, Any]
) -> None:
    one = {"column": "amount", "windows": ["1h"], "name": "a", **given}
    first, second = (plan(spending(aggregations=[item])) for item in (one, one | other))
    assert first.state_fingerprint != second.state_fingerprint
    assert first.rows_fingerprint == second.rows_fingerprint


def test_a_lifetime_window_has_no_width_and_no_edge_to_round() -> None:
    window = {"column": "amount", "functions": ["sum"], "windows": ["1h", "lifetime"]}
    found = plan(spending(aggregations=[window | {"offset": "1d", "granularity": "1h"}]))
    assert [a.name for a in found.aggregates] == ["amount_sum_1h", "amount_sum_lifetime"]
    assert found.aggregates[1].window == Window(None, offset=DAY)
    assert found.has_lifetime
    assert found.reach == DAY + 2 * HOUR
    assert not plan(spending()).has_lifetime


def test_results_have_the_types_of_their_columns() -> None:
    price = DataType("decimal", precision=10, scale=2)
    stamp = DataType("timestamp")
    expected = {
        ("sum", price): "decimal(38,2)",
        ("avg", price): "float64",
        ("max", price): "decimal(10,2)",
        ("diff", price): "decimal(38,2)",
        ("diff", DataType("uint8")): "int64",
        ("diff", DataType("date")): "int64",
        ("diff", stamp): "float64",
        ("lag", stamp): "timestamp",
        ("mode", price): "decimal(10,2)",
        ("histogram", price): "map<decimal(10,2),int64>",
        ("histogram", STRING): "map<string,int64>",
        ("distinct", stamp): "list<timestamp>",
        ("first_k", DataType("list", item=INT64)): "list<list<int64>>",
        ("approx_percentile", INT64): "float64",
        ("approx_count_distinct", STRING): "int64",
    }
    for (function, kind), text in expected.items():
        given = {"k": 2, "percentile": 0.5}
        assert str(result_type(function, kind, **given)) == text, function
        assert DataType.parse(text) == result_type(function, kind, **given)
