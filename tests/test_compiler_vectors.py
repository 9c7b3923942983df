"""A feature vector compiles to look-ups, derived values, imputes and outputs in the declared order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from featurestore.compiler import (
    CompiledProject,
    FitNeed,
    NotFitted,
    compile_bundle,
    compile_declarations,
    compile_vector,
    fit_needs,
)
from featurestore.errors import RequestError
from featurestore.plans import VectorPlan
from featurestore.specs import Declaration, Entity, FeatureSet, FeatureVector, Loaded, Origin, Source
from featurestore.types import FLOAT64, INT64, STRING, Field

PAYMENTS: dict[str, Any] = {
    "name": "payments",
    "schema": {
        "id": "string",
        "who": "string",
        "shop_number": "int64",
        "at": "timestamp",
        "amount": "float64",
        "category": "string",
    },
    "event_time": "at",
    "event_id": "id",
}
COUNT = [{"functions": ["count"], "windows": ["1h"]}]
DECLARED: list[Declaration] = [
    Entity(name="customer"),
    Entity(name="shop", type="int64", key="shop_id"),
    Entity(name="account"),
    Source.model_validate(PAYMENTS),
    Source.model_validate({**PAYMENTS, "name": "chargebacks", "event_id": None}),
    FeatureSet.model_validate(
        {
            "name": "spending",
            "entities": [{"customer": "who"}],
            "source": "payments",
            "aggregations": [{"column": "amount", "functions": ["sum", "avg"], "windows": ["2h"]}],
        }
    ),
    FeatureSet.model_validate(
        {
            "name": "shops",
            "entities": [{"shop": "shop_number"}],
            "source": "payments",
            "steps": [{"select": ["category"]}],
            "aggregations": COUNT,
        }
    ),
    FeatureSet.model_validate(
        {
            "name": "accounts",
            "entities": [{"account": "who"}],
            "source": "chargebacks",
            "steps": [{"select": ["category"]}],
            "aggregations": COUNT,
        }
    ),
    FeatureSet.model_validate(
        {
            "name": "labels",
            "entities": [{"customer": "who"}],
            "source": "payments",
            "online": False,
            "steps": [{"derive": {"fraud": "amount > 100"}}, {"select": ["fraud"]}],
        }
    ),
]


def project(*vectors: FeatureVector, fits: dict[str, Any] | None = None) -> CompiledProject:
    loaded = [Loaded(item, Origin(f"{item.name}.yaml", 1)) for item in [*DECLARED, *vectors]]
    return compile_declarations("p", loaded, fits)


def vector(features: list[Any], **fields: Any) -> VectorPlan:
    declared = FeatureVector.model_validate({"name": "v", "features": features, **fields})
    return project(declared).vector("v")


def outputs(plan: VectorPlan) -> list[str]:
    return [field.name for field in plan.outputs]


def test_outputs_follow_the_declared_order_and_their_aliases() -> None:
    plan = vector(
        [
            "shops.count_1h as visits",
            "spending.amount_sum_2h",
            "accounts.* as account_*",
            {"set": "accounts", "features": ["*"], "keys": {"account": "payee"}, "as": "payee_*"},
            {"set": "shops", "features": ["category as kind"]},
            {"set": "spending", "features": ["amount_avg_2h"], "as": "mean_amount"},
        ],
        derive={"per_visit": "amount_sum_2h / visits"},
    )
    assert plan.outputs == (
        Field("visits", INT64),
        Field("amount_sum_2h", FLOAT64),
        Field("account_category", STRING),
        Field("account_count_1h", INT64),
        Field("payee_category", STRING),
        Field("payee_count_1h", INT64),
        Field("kind", STRING),
        Field("mean_amount", FLOAT64),
        Field("per_visit", FLOAT64),
    )


def test_one_look_up_per_set_and_keys() -> None:
    plan = vector(
        [
            "shops.count_1h",
            "accounts.count_1h as own",
            {"set": "accounts", "features": ["count_1h"], "keys": {"account": "payee"}, "as": "payee_*"},
            "shops.category",
        ]
    )
    assert [(item.set.name, item.keys, [f.feature for f in item.features]) for item in plan.lookups] == [
        ("shops", ("shop_id",), ["count_1h", "category"]),
        ("accounts", ("account",), ["count_1h"]),
        ("accounts", ("payee",), ["count_1h"]),
    ]
    assert plan.request_keys == ("shop_id", "account", "payee")


def test_with_a_base_keys_come_from_its_row() -> None:
    plan = vector(
        [
            "spending.amount_sum_2h",
            "shops.count_1h",  # of the same source: the key is where its own rows have it
            {"set": "accounts", "features": ["count_1h"], "keys": {"account": "category"}, "as": "cat_*"},
            {"set": "accounts", "features": ["count_1h"], "keys": {"account": "payee"}, "as": "payee_*"},
            {"set": "accounts", "features": ["count_1h"], "keys": {"account": "customer"}, "as": "own_*"},
        ],
        base="spending",
        inputs={"payee": "string"},
    )
    assert [(item.set.name, item.keys, item.is_base) for item in plan.lookups] == [
        ("spending", ("who",), True),
        ("shops", ("shop_number",), False),
        ("accounts", ("category",), False),
        ("accounts", ("payee",), False),
        ("accounts", ("who",), False),  # customer is the request column of the base's own key
    ]


def test_the_base_set_by_another_key_is_a_look_up() -> None:
    plan = vector(
        [
            "spending.amount",
            {"set": "spending", "features": ["amount"], "keys": {"customer": "payee"}, "as": "payee_*"},
        ],
        base="spending",
        inputs={"payee": "string"},
    )
    assert [(item.keys, item.is_base) for item in plan.lookups] == [(("who",), True), (("payee",), False)]


def test_the_label_is_left_out_of_stars_and_matched_by_event_id_where_the_source_is_the_bases() -> None:
    plan = vector(["spending.amount_sum_2h"], base="spending", label="labels.fraud as is_fraud")
    assert plan.label is not None
    assert (plan.label.output, plan.label.keys, plan.label.by_event_id) == ("is_fraud", ("who",), True)
    without = vector(["spending.amount_sum_2h"], label="labels.fraud")
    assert without.label is not None
    assert (without.label.keys, without.label.by_event_id) == (("customer",), False)
    assert outputs(vector(["spending.*"], label="spending.amount")) == [
        "shop_number",
        "category",
        "amount_sum_2h",
        "amount_avg_2h",
    ]
    other = vector(
        ["spending.amount"], base="spending", label="accounts.count_1h", inputs={"account": "string"}
    )
    assert other.label is not None
    assert not other.label.by_event_id


def test_derive_reads_features_outputs_inputs_and_earlier_values_and_fetches_what_is_not_selected() -> None:
    plan = vector(
        ["spending.amount_sum_2h as paid"],
        inputs={"rate": "float64"},
        derive={
            "a": "paid * rate",
            "b": "spending.amount_sum_2h + a",
            "c": "shops.count_1h + spending.amount_avg_2h",
        },
    )
    assert outputs(plan) == ["paid", "a", "b", "c"]
    assert [(item.name, item.columns) for item in plan.derived] == [
        ("a", (("paid", "paid"), ("rate", "rate"))),
        ("b", (("a", "a"), ("spending.amount_sum_2h", "paid"))),
        (
            "c",
            (
                ("shops.count_1h", "shops.count_1h"),
                ("spending.amount_avg_2h", "spending.amount_avg_2h"),
            ),
        ),
    ]
    fetched = [(f.output, f.hidden) for lookup in plan.lookups for f in lookup.features]
    assert fetched == [("paid", False), ("spending.amount_avg_2h", True), ("shops.count_1h", True)]


def test_constants_are_imputed_as_values_of_the_outputs_type() -> None:
    plan = vector(
        ["spending.amount_sum_2h", "shops.count_1h", "shops.category"],
        impute={"*": 0, "category": "none"},
    )
    assert plan.impute == (("amount_sum_2h", 0.0), ("count_1h", 0), ("category", "none"))
    assert [type(value) for _, value in plan.impute] == [float, int, str]


def test_a_star_imputes_what_it_suits() -> None:
    assert vector(["shops.*"], impute={"*": "none"}).impute == (("category", "none"),)
    assert vector(["shops.*"], impute={"*": "$$x"}).impute == (("category", "$x"),)


FITTED = FeatureVector.model_validate(
    {
        "name": "fitted-vector",
        "features": ["spending.amount_sum_2h", "shops.*"],
        "impute": {"*": "$mean", "category": "$mode"},
    }
)


def test_what_is_not_fitted_is_refused_with_the_command_and_hinders_nothing_else() -> None:
    found = project(FITTED, FeatureVector(name="plain", features=("shops.*",)))
    assert list(found.vectors) == ["plain"]
    with pytest.raises(NotFitted) as caught:
        found.vector("fitted-vector")
    assert str(caught.value) == (
        "fitted-vector.yaml:1: impute: $mean of 'amount_sum_2h', $mode of 'category', $mean of 'count_1h'"
        " are not fitted. Run: featurestore fit fitted-vector"
    )
    assert caught.value.needs == (
        FitNeed("amount_sum_2h", "mean"),
        FitNeed("category", "mode"),
        FitNeed("count_1h", "mean"),
    )
    assert caught.value.plan is not None
    assert caught.value.plan.impute == ()


FITS = {
    "fitted-vector": {
        "amount_sum_2h": {"mean": 2.5},
        "category": {"mode": "food"},
        "count_1h": {"mean": 2.5},
    }
}


def test_fitted_values_are_imputed_integers_half_to_even_and_nothing_for_what_had_no_values() -> None:
    plan = project(FITTED, fits=FITS).vector("fitted-vector")
    assert plan.impute == (("amount_sum_2h", 2.5), ("category", "food"), ("count_1h", 2))
    assert fit_needs(FITTED, plan) == (
        FitNeed("amount_sum_2h", "mean"),
        FitNeed("category", "mode"),
        FitNeed("count_1h", "mean"),
    )
    empty = {"fitted-vector": {**FITS["fitted-vector"], "category": {"mode": None}}}
    assert project(FITTED, fits=empty).vector("fitted-vector").impute == (
        ("amount_sum_2h", 2.5),
        ("count_1h", 2),
    )


def test_another_fit_is_another_version() -> None:
    other = {"fitted-vector": {**FITS["fitted-vector"], "count_1h": {"mean": 7.0}}}
    first = project(FITTED, fits=FITS).vector("fitted-vector")
    assert first.fingerprint != project(FITTED, fits=other).vector("fitted-vector").fingerprint
    assert first.fingerprint == project(FITTED, fits=FITS).vector("fitted-vector").fingerprint
    assert len(first.fingerprint) == 12


def test_a_list_of_references_compiles_over_compiled_sets() -> None:
    plan = compile_vector(
        FeatureVector(name="adhoc", features=("shops.count_1h",)), project().sets, project="p"
    )
    assert outputs(plan) == ["count_1h"]


def test_a_bundle_holds_the_closure_and_compiles_to_the_same_plan() -> None:
    declared = FeatureVector.model_validate(
        {
            "name": "v",
            "base": "spending",
            "features": ["spending.amount"],
            "label": "labels.fraud",
            "derive": {"busy": "shops.count_1h > 3"},
        }
    )
    whole = project(declared, FITTED, fits=FITS)
    bundle = json.loads(json.dumps(whole.bundle("v")))
    assert [(item["kind"], item["name"]) for item in bundle] == [
        ("Project", "p"),
        ("Entity", "customer"),
        ("Source", "payments"),
        ("FeatureSet", "spending"),
        ("Entity", "shop"),
        ("FeatureSet", "shops"),
        ("FeatureSet", "labels"),
        ("FeatureVector", "v"),
    ]
    assert compile_bundle(bundle).vector("v") == whole.vector("v")
    fitted = json.loads(json.dumps(whole.bundle("fitted-vector")))
    assert compile_bundle(fitted, FITS).vector("fitted-vector") == whole.vector("fitted-vector")
    assert compile_bundle(whole.bundle("labels")).sets["labels"] == whole.sets["labels"]


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    found = project(FeatureVector(name="check", features=("shops.*",)))
    with pytest.raises(RequestError, match=r"There is no vector 'chek'\. Did you mean 'check'\?"):
        found.vector("chek")
    with pytest.raises(RequestError, match=r"There is no object 'chek'\. Did you mean 'check'\?"):
        found.bundle("chek")
