"""A key may be a feature: which look-up it is of, in which order they come, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from parity import compiled

from featurestore.compiler import compile_bundle
from featurestore.plans import VectorPlan
from featurestore.specs.problems import SpecErrors

SPECS = """
kind: Entity
name: customer
---
kind: Entity
name: merchant
type: int64
---
kind: Entity
name: city
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: string, customer: string, merchant: int64, payee: string, amount: float64, at: timestamp}
batch: {kind: parquet, path: "payments.parquet"}
---
kind: Source
name: openings
event_time: at
schema: {merchant: int64, city: string, owner: string, rating: int32, price: float64, at: timestamp}
batch: {kind: parquet, path: "openings.parquet"}
---
kind: FeatureSet
name: spending
entities: [customer]
source: payments
aggregations:
  - {column: merchant, functions: [last], windows: [1h]}
  - {column: merchant, name: all, functions: [last_k], k: 3, windows: [1h]}
  - {column: payee, functions: [last], windows: [1h]}
---
kind: FeatureSet
name: merchants
entities: [merchant]
source: openings
---
kind: FeatureSet
name: pairs
entities: [customer, merchant]
source: payments
steps: [{drop: [payee]}]
aggregations: [{functions: [count], windows: [1h]}]
---
kind: FeatureSet
name: cities
entities: [city]
source: openings
aggregations: [{functions: [count], windows: [1h]}]
---
kind: FeatureSet
name: hidden
entities: [customer]
source: payments
online: false
---
kind: FeatureVector
name: v
"""


def vector(body: str) -> VectorPlan:
    return compiled(SPECS + body).vectors["v"]


def problems(body: str) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        compiled(SPECS + body)
    return [f"{error.message} {error.hint or ''}".strip() for error in caught.value.errors]


def shown(plan: VectorPlan) -> list[Any]:
    return [
        (x.set.name, x.keys, x.feature_keys, x.level, [s.output for s in x.features]) for x in plan.lookups
    ]


BY_LAST = "{set: merchants, features: [city], keys: {merchant: spending.merchant_last_1h}, as: m_*}"


def test_the_feature_is_fetched_unseen_and_the_request_need_not_give_it() -> None:
    plan = vector(f"features: [{BY_LAST}]")
    assert shown(plan) == [
        ("spending", ("customer",), (), 0, ["spending.merchant_last_1h"]),
        ("merchants", ("spending.merchant_last_1h",), (0,), 1, ["m_city"]),
    ]
    assert plan.request_keys == ("customer",)
    assert [f.name for f in plan.outputs] == ["m_city"]


def test_an_output_serves_as_it_is_and_may_be_named() -> None:
    first = vector(f"features: [spending.merchant_last_1h as latest, {BY_LAST}]")
    assert shown(first)[1] == ("merchants", ("latest",), (0,), 1, ["m_city"])
    second = vector(
        "features: [spending.merchant_last_1h as latest,"
        " {set: merchants, features: [city], keys: {merchant: latest}, as: m_*}]"
    )
    assert shown(second) == shown(first)
    assert second.fingerprint == first.fingerprint


def test_levels_follow_from_chains_whatever_their_order() -> None:
    plan = vector(f"""
features:
  - {{set: cities, features: [count_1h], keys: {{city: merchants.city}}, as: c_*}}
  - {{set: pairs, features: [count_1h], keys: {{merchant: spending.merchant_last_1h}}, as: p_*}}
  - {BY_LAST}
  - cities.count_1h as here
""")
    assert shown(plan) == [
        ("cities", ("city",), (), 0, ["here"]),
        ("spending", ("customer",), (), 0, ["spending.merchant_last_1h"]),
        ("merchants", ("spending.merchant_last_1h",), (0,), 1, ["m_city"]),
        ("pairs", ("customer", "spending.merchant_last_1h"), (1,), 1, ["p_count_1h"]),
        ("cities", ("m_city",), (0,), 2, ["c_count_1h"]),
    ]
    assert plan.request_keys == ("city", "customer")
    assert [f.name for f in plan.outputs] == ["c_count_1h", "p_count_1h", "m_city", "here"]


def test_a_set_keyed_by_its_own_feature_reads_the_set_by_the_request_first() -> None:
    plan = vector(
        "features:"
        " [{set: spending, features: [amount], keys: {customer: spending.payee_last_1h}, as: payee_*}]"
    )
    assert shown(plan) == [
        ("spending", ("customer",), (), 0, ["spending.payee_last_1h"]),
        ("spending", ("spending.payee_last_1h",), (0,), 1, ["payee_amount"]),
    ]
    assert plan.request_keys == ("customer",)


def test_names_tell_several_look_ups_of_a_set_apart() -> None:
    plan = vector("""
features:
  - {set: spending, features: [payee_last_1h], keys: {customer: giver}, as: giver_*}
  - {set: spending, features: [payee_last_1h], keys: {customer: taker}, as: taker_*}
  - {set: spending, features: [amount], keys: {customer: taker_payee_last_1h}, as: next_*}
""")
    assert shown(plan)[2] == ("spending", ("taker_payee_last_1h",), (0,), 1, ["next_amount"])
    assert problems("""
features:
  - {set: spending, features: [payee_last_1h], keys: {customer: giver}, as: giver_*}
  - {set: spending, features: [payee_last_1h], keys: {customer: taker}, as: taker_*}
  - {set: merchants, features: [city], keys: {merchant: spending.merchant_last_1h}}
""") == [
        "features[2]: 'spending.merchant_last_1h' could be by giver or by taker. Use the names that"
        " the vector"
        " gives them, such as giver_payee_last_1h or taker_payee_last_1h."
    ]


def test_hidden_features_of_two_look_ups_of_a_set_are_two() -> None:
    plan = vector("""
features:
  - {set: spending, features: [amount], keys: {customer: spending.payee_last_1h}, as: a_*}
  - {set: merchants, features: [city], keys: {merchant: spending.merchant_last_1h}, as: m_*}
  - {set: pairs, features: [count_1h], keys: {customer: spending.payee_last_1h, merchant: m_rating}, as: p_*}
  - merchants.rating as m_rating
""")
    outputs = [s.output for x in plan.lookups for s in x.features]
    assert len(outputs) == len(set(outputs))
    assert [x.level for x in plan.lookups] == sorted(x.level for x in plan.lookups)


def test_derive_reads_a_look_up_by_a_feature() -> None:
    plan = vector(f"features: [{BY_LAST}]\nderive: {{dear: 'merchants.price > 10'}}")
    assert shown(plan)[1][4] == ["m_city", "merchants.price"]


def test_with_a_base_its_row_is_the_key_without_another_round_trip() -> None:
    plan = vector("""
base: spending
features:
  - spending.amount
  - {set: merchants, features: [city], keys: {merchant: spending.merchant}, as: own_*}
  - {set: merchants, features: [city], keys: {merchant: spending.merchant_last_1h}, as: last_*}
""")
    assert shown(plan) == [
        ("spending", ("customer",), (), 0, ["amount", "spending.merchant_last_1h"]),
        ("merchants", ("merchant",), (), 0, ["own_city"]),
        ("merchants", ("spending.merchant_last_1h",), (0,), 1, ["last_city"]),
    ]
    only = vector(
        "base: spending\nfeatures: [{set: merchants, features: [city], keys: {merchant: spending.merchant}}]"
    )
    assert shown(only) == [("merchants", ("merchant",), (), 0, ["city"])]


def test_a_column_of_the_request_or_the_base_comes_before_an_output_of_its_name() -> None:
    plan = vector("""
base: spending
features:
  - merchants.rating as merchant
  - {set: merchants, features: [city], keys: {merchant: merchant}}
""")
    assert shown(plan) == [("merchants", ("merchant",), (), 0, ["merchant", "city"])]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            """
features:
  - {set: merchants, features: [city], keys: {merchant: cities.rating}, as: a_*}
  - {set: cities, features: [rating], keys: {city: merchants.city}, as: b_*}
""",
            "features[0]: keys: the look-ups take their keys from one another: merchants.{city} →"
            " cities.{rating}"
            " → merchants.{city}. One of them must take its key from the request.",
        ),
        (
            "features: [{set: spending, features: [payee], keys: {customer: own_payee}, as: own_*}]",
            "features[0]: keys: the look-ups take their keys from one another: spending.{payee} →"
            " spending.{payee}. One of them must take its key from the request.",
        ),
        (
            "features: [{set: merchants, features: [city], keys: {merchant: spending.payee_last_1h}}]",
            "features[0]: the feature 'spending.payee_last_1h' is of type string, the entity"
            " 'merchant' of type"
            " int64.",
        ),
        (
            "features: [{set: merchants, features: [city], keys: {merchant: spending.all_last_k_1h}}]",
            "features[0]: the feature 'spending.all_last_k_1h' is of type list<int64>, the entity"
            " 'merchant' of"
            " type int64.",
        ),
        (
            "features: [{set: merchants, features: [city], keys: {merchant: spending.merchant_last_2h}}]",
            "features[0]: the feature set 'spending' has no feature 'merchant_last_2h'. Did you mean"
            " 'merchant_last_1h'?",
        ),
        (
            "features: [{set: merchants, features: [city], keys: {merchant: spendin.merchant_last_1h}}]",
            "features[0]: there is no feature set 'spendin'. Did you mean 'spending'?",
        ),
        (
            "features: [{set: merchants, features: [city], keys: {merchant: hidden.merchant}}]",
            "features[0]: the feature set 'hidden' has online: false, so it serves as a label only."
            " Set online:"
            " true, or leave the feature out.",
        ),
        (
            "features: [spending.amount, {set: merchants, features: [city], keys: {merchant: twice}}]\n"
            "derive: {twice: 'cast(spending.amount as bigint)'}",
            "features[1]: keys: 'twice' is a derived value; what is derived comes after the"
            " look-ups. Take the"
            " key from a feature or from the request; a feature set's steps may derive it.",
        ),
        (
            "features: [{set: merchants, features: [city], keys: {merchant: a.b.c}}]",
            "features[0].keys.merchant: 'a.b.c' is no name. Write a column, or set.feature.",
        ),
    ],
)
def test_what_is_no_key_is_refused(body: str, expected: str) -> None:
    assert problems(body) == [expected]


def test_the_closure_of_a_vector_has_the_sets_that_only_its_keys_and_its_condition_read() -> None:
    project = compiled(
        SPECS + f"features: [{BY_LAST}]\ntraining: {{where: 'hidden.amount > 0 and cities.count_1h > 1'}}"
    )
    bundle = project.bundle("v")
    names = {item["name"] for item in bundle if item["kind"] == "FeatureSet"}
    assert names == {"spending", "merchants", "hidden", "cities"}
    assert compile_bundle(bundle).vector("v") == project.vector("v")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "features: [spending.amount]\ntraining: {where: 'amount + 1'}",
            "training.where: 'amount + 1' is of type float64, and must be true or false. Compare it with"
            " something, as in: amount > 0",
        ),
        (
            "features: [spending.amount]\ntraining: {where: 'amont > 1'}",
            "training.where: There is no column 'amont', in `amont > 1`. Did you mean 'amount'?",
        ),
        (
            "features: [spending.amount]\ntraining: {start: yesterday}",
            "training.start: 'yesterday' is no instant. Write 2026-01-01T00:00:00Z.",
        ),
        (
            "features: [spending.amount]\ntraining: {start: 2026-02-01T00:00:00Z, end: 2026-01-01T00:00:00Z}",
            "training: no instant lies from 2026-02-01T00:00:00Z on and before 2026-01-01T00:00:00Z."
            " Swap start:"
            " and end:.",
        ),
        (
            "features: [spending.amount]\ntraining: {join: outer}",
            "training.join: 'outer' is not allowed. Known: inner, left.",
        ),
        (
            "features: [spending.amount]\nlabel: {feature: hidden.payee, pending: drop}",
            "label: pending: drop is of a label with an offset, and this one has none. Add offset:,"
            " such as 7d,"
            " or leave pending: out.",
        ),
        (
            "features: [spending.amount]\nlabel: {feature: hidden.payee, offset: soon}",
            "label.offset: 'soon' is no duration.",
        ),
    ],
)
def test_training_and_label_are_refused_with_what_is_wrong(body: str, expected: str) -> None:
    [found] = problems(body)
    assert found.startswith(expected), found


def test_a_label_with_an_offset_is_matched_as_of_and_one_without_by_event() -> None:
    def label(text: str) -> Any:
        made = vector(f"base: spending\nfeatures: [spending.amount]\nlabel: {text}").label
        assert made is not None
        return made.by_event_id, made.offset, made.pending

    assert label("hidden.payee") == (True, 0, "hide")
    assert label("{feature: hidden.payee}") == (True, 0, "hide")
    assert label("{feature: hidden.payee, offset: 7d}") == (False, 7 * 24 * 3600 * 1_000_000, "hide")
    plain, written = (
        vector(f"features: [spending.amount]\nlabel: {text}").fingerprint
        for text in ("hidden.payee", "{feature: hidden.payee}")
    )
    assert plain == written
