"""What cannot be compiled is refused with file:line, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.compiler import compile_project
from featurestore.specs import SpecErrors, load_project

BASE = """\
kind: Entity
name: customer
---
kind: Entity
name: shop
type: int64
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: string, who: string, shop: int64, at: timestamp, merchant: string, amount: float64}
---
kind: Source
name: static
event_time: always
schema: {who: string, age: int64}
---
kind: FeatureSet
name: spending
entities: [{customer: who}]
source: payments
aggregations: [{column: amount, functions: [sum], windows: [2h]}]
---
kind: FeatureSet
name: labels
entities: [{customer: who}]
source: payments
online: false
"""


def source(text: str) -> str:
    return "kind: Source\nname: s\n" + text


def feature_set(text: str) -> str:
    return "kind: FeatureSet\nname: s\nentities: [{customer: who}]\nsource: payments\n" + text


def vector(text: str) -> str:
    return "kind: FeatureVector\nname: v\n" + text


SOURCES = {
    "the event time's column is missing": (
        "event_time: att\nschema: {at: timestamp}\n",
        "a.yaml:3: event_time: there is no column 'att'. Did you mean 'at'?",
    ),
    "the event time is no timestamp": (
        "event_time: at\nschema: {at: string}\n",
        "a.yaml:3: event_time: 'at' is of type string, and must be a timestamp."
        " Declare it so in the schema, at: timestamp; text in ISO 8601 is read as one.",
    ),
    "an id column is missing": (
        "event_time: at\nschema: {at: timestamp, id: string}\nevent_id: [idd]\n",
        "a.yaml:5: event_id: there is no column 'idd'. Did you mean 'id'?",
    ),
    "an order that is none": (
        "event_time: at\nschema: {at: timestamp, id: string}\norder_by: id\n",
        "a.yaml:5: order_by: 'id' is of type string; rows are ordered by a number, a date or a timestamp."
        " Name another column, or leave order_by: out: then the ingest time decides.",
    ),
    "no time zone": (
        "event_time: at\nschema: {at: timestamp}\ntimezone: Europe/Lodon\n",
        "a.yaml:5: timezone: 'Europe/Lodon' is no time zone. Did you mean 'Europe/London'?",
    ),
    "a naive cutover": (
        "event_time: at\nschema: {at: timestamp}\nbatch: {kind: csv, path: x}\nstream: {topic: t}\n"
        "cutover: 2026-01-01T00:00:00\n",
        "a.yaml:7: cutover: 2026-01-01T00:00:00 has no time zone; write it with one, as …Z or …+00:00."
        " For example 2026-01-01T00:00:00Z.",
    ),
    "two halves without id": (
        "event_time: at\nschema: {at: timestamp}\nbatch: {kind: csv, path: x}\nstream: {topic: t}\n",
        "a.yaml:1: source 's' has a batch and a stream half, and nothing tells rows of both apart."
        " Add event_id: <column>, or cutover: <instant>.",
    ),
    "deleted is no condition": (
        "event_time: at\nschema: {at: timestamp, op: string}\ndeleted: op\n",
        "a.yaml:5: deleted: 'op' is of type string, and must be true or false."
        " Compare it with something, as in: amount > 0",
    ),
    "replace without id": (
        "event_time: at\nschema: {at: timestamp}\non_duplicate: replace\n",
        "a.yaml:5: on_duplicate: replace needs event_id:, which says what a duplicate is.",
    ),
}

SETS = {
    "a typo in a column": (
        "aggregations:\n  - functions: [sum]\n    windows: [2h]\n    column: amout\n",
        "a.yaml:8: aggregations[0].column: there is no column 'amout'. Did you mean 'amount'?",
    ),
    "a sum over text": (
        "aggregations:\n  - {column: merchant, functions: [sum], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].functions: sum needs a number, found string in 'merchant'."
        " Known: amount, shop.",
    ),
    "a typo in a function": (
        "aggregations:\n  - {column: amount, functions: [sum, averag], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].functions: 'averag' is no aggregation function. Did you mean 'avg'?",
    ),
    "last_k without k": (
        "aggregations:\n  - {column: amount, functions: [last_k], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].functions: last_k needs k:, how many values it keeps.",
    ),
    "k for nothing": (
        "aggregations:\n  - {column: amount, functions: [sum], windows: [2h], k: 3}\n",
        "a.yaml:6: aggregations[0].k: none of the functions has k:."
        " Those that do: first_k, last_k, top_k, bottom_k, lag, diff.",
    ),
    "a sum over instants": (
        "aggregations:\n  - {column: at, functions: [sum], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].functions: sum needs a number, found timestamp in 'at'."
        " Known: amount, shop.",
    ),
    "a histogram over floats": (
        "aggregations:\n  - {column: amount, functions: [histogram], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].functions: histogram needs a column of single values that are no floats,"
        " found float64 in 'amount'. Known: at, id, merchant, shop, who.",
    ),
    "decay without half_life": (
        "aggregations:\n  - {column: amount, functions: [decay_sum], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].functions: decay_sum needs half_life:, after how long a value counts"
        " half.",
    ),
    "a half_life of nothing": (
        "aggregations:\n  - {column: amount, functions: [decay_sum], windows: [2h], half_life: 0s}\n",
        "a.yaml:6: aggregations[0].half_life: '0s' is no time at all. Write a duration above zero.",
    ),
    "a half_life for nothing": (
        "aggregations:\n  - {column: amount, functions: [sum], windows: [2h], half_life: 1h}\n",
        "a.yaml:6: aggregations[0].half_life: none of the functions has half_life:."
        " Those that do: decay_sum, decay_avg.",
    ),
    "a percentile is missing": (
        "aggregations:\n  - {column: amount, functions: [approx_percentile], windows: [lifetime]}\n",
        "a.yaml:6: aggregations[0].functions: approx_percentile needs percentile:, the share of values below"
        " the one it gives, such as 0.95.",
    ),
    "two percentiles by one name": (
        "aggregations:\n"
        "  - {column: amount, functions: [approx_percentile], windows: [1d], percentile: 0.5}\n"
        "  - {column: amount, functions: [approx_percentile], windows: [1d], percentile: 0.9}\n",
        "a.yaml:7: aggregations[1]: the feature 'amount_approx_percentile_1d' is already made by"
        " aggregations[0]. Give one of them a name:, which replaces the column in the feature's name.",
    ),
    "a window of nothing": (
        "aggregations:\n  - {column: amount, functions: [sum], windows: [0s]}\n",
        "a.yaml:6: aggregations[0].windows: '0s' is no time at all. Write a duration above zero.",
    ),
    "a granularity of nothing": (
        "aggregations:\n  - {column: amount, functions: [sum], windows: [1h, 2h], granularity: 0s}\n",
        "a.yaml:6: aggregations[0].granularity: '0s' is no time at all. Write a duration above zero.",
    ),
    "an offset without end": (
        "aggregations:\n  - {column: amount, functions: [sum], windows: [1h, 2h], offset: 999999d}\n",
        "a.yaml:6: aggregations[0].offset: '999999d' is longer than a thousand years.",
    ),
    "a half_life without end": (
        "aggregations:\n  - {column: amount, functions: [decay_sum], windows: [1h], half_life: 999999d}\n",
        "a.yaml:6: aggregations[0].half_life: '999999d' is longer than a thousand years.",
    ),
    "a function twice": (
        "aggregations:\n  - {column: amount, functions: [sum, sum], windows: [1h]}\n",
        "a.yaml:6: aggregations[0].functions: 'sum' is there twice. Remove one of the two.",
    ),
    "a category twice": (
        "aggregations:\n  - {by: merchant, values: [a, a], functions: [count], windows: [1h]}\n",
        "a.yaml:6: aggregations[0]: it makes the feature 'a_count_1h' twice. Remove one of the two.",
    ),
    "a percentile that is no number": (
        "aggregations:\n  - {column: amount, functions: [approx_percentile], windows: [1h],"
        " percentile: true}\n",
        "a.yaml:6: aggregations[0].percentile: expected a number, found true.",
    ),
    "a condition that is none": (
        "aggregations:\n  - {functions: [count], windows: [2h], where: amount + 1}\n",
        "a.yaml:6: aggregations[0].where: 'amount + 1' is of type float64, and must be true or false."
        " Compare it with something, as in: amount > 0",
    ),
    "categories of another type": (
        "aggregations:\n  - {by: merchant, values: [1], functions: [count], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].values: 1 is no string, the type of 'merchant'. Write \"1\" in quotes.",
    ),
    "categories of measures": (
        "aggregations:\n  - {by: amount, values: [1], functions: [count], windows: [2h]}\n",
        "a.yaml:6: aggregations[0].by: 'amount' is of type float64;"
        " categories are text, integers or booleans."
        " Cast the column in a step, or say what counts with where:.",
    ),
    "a category beyond the column's range": (
        "aggregations:\n  - {by: shop, values: [9223372036854775808], functions: [count], windows: [1h]}\n",
        "a.yaml:6: aggregations[0].values: 9223372036854775808 is no int64, the type of 'shop'.",
    ),
    "two aggregations of one name": (
        "aggregations:\n  - {column: amount, functions: [sum], windows: [2h]}\n"
        "  - {column: amount, where: shop = 1, functions: [sum], windows: [2h]}\n",
        "a.yaml:7: aggregations[1]: the feature 'amount_sum_2h' is already made by aggregations[0]."
        " Give one of them a name:, which replaces the column in the feature's name.",
    ),
    "an aggregate named as a column": (
        "steps:\n  - derive: {count_1h: amount}\naggregations:\n  - {functions: [count], windows: [1h]}\n",
        "a.yaml:8: aggregations[0]: the feature 'count_1h' is also a column."
        " Give the aggregation a name: of its own.",
    ),
    "a step over a missing column": (
        "steps:\n  - drop: [merchant]\n  - derive: {x: amout * 2}\n",
        "a.yaml:7: derive: x: There is no column 'amout', in `amout * 2`. Did you mean 'amount'?",
    ),
}

WHOLE_SETS = {
    "no such source": (
        "kind: FeatureSet\nname: s\nentities: [customer]\nsource: paymants\n",
        "a.yaml:4: source: there is no source or feature set 'paymants'. Did you mean 'payments'?",
    ),
    "no such entity": (
        "kind: FeatureSet\nname: s\nentities:\n  - custmer: who\nsource: payments\n",
        "a.yaml:4: entities[0]: there is no entity 'custmer'. Did you mean 'customer'?",
    ),
    "the key is under another name": (
        "kind: FeatureSet\nname: s\nentities: [customer]\nsource: payments\n",
        "a.yaml:3: entities[0]: there is no column 'customer'."
        " Name the column with the key: {customer: <column>}. Known: amount, at, id, merchant, shop, who.",
    ),
    "the key is of another type": (
        "kind: FeatureSet\nname: s\nentities: [{customer: shop}]\nsource: payments\n",
        "a.yaml:3: entities[0]: the column 'shop' is of type int64, the entity 'customer' of type string."
        " Declare the entity with type: int64, or cast the column in a step.",
    ),
    "a window over what has no time": (
        "kind: FeatureSet\nname: s\nentities: [{customer: who}]\nsource: static\n"
        "aggregations: [{functions: [count], windows: [1h]}]\n",
        "a.yaml:5: aggregations: the source 'static' has event_time: always, and a window needs a time."
        " Name the source's timestamp column in event_time:.",
    ),
    "sets that read one another": (
        "kind: FeatureSet\nname: a\nentities: [customer]\nsource: b\n---\n"
        "kind: FeatureSet\nname: b\nentities: [customer]\nsource: a\n",
        "a.yaml:4: source: the feature sets read one another: a → b → a. One must read a source.",
    ),
    "a duplicate name": (
        "kind: Entity\nname: customer\n",
        "base.yaml:2: Entity 'customer' is declared already, at a.yaml:1. Rename one of the two.",
    ),
    "a vector named as a set": (
        "kind: FeatureVector\nname: spending\nfeatures: [spending.*]\n",
        "base.yaml:20: FeatureSet 'spending' is declared already, at a.yaml:1, as a FeatureVector."
        " Rename one of the two.",
    ),
    "floats are no key": (
        "kind: Entity\nname: e\ntype: float64\n",
        "a.yaml:3: type: float64 is no type of a key."
        " Use an integer type, string, binary, bool, date or timestamp.",
    ),
}

VECTORS = {
    "no such set": (
        "features:\n  - spendings.amount\n",
        "a.yaml:4: features[0]: there is no feature set 'spendings'. Did you mean 'spending'?",
    ),
    "no such feature": (
        "features:\n  - spending.amount\n  - spending.amount_sum_3h\n",
        "a.yaml:5: features[1]: the feature set 'spending' has no feature 'amount_sum_3h'."
        " Did you mean 'amount_sum_2h'?",
    ),
    "a set alone": (
        "features: [spending]\n",
        "a.yaml:3: features[0]: 'spending' selects no feature. Write spending.* for all of its features.",
    ),
    "a clash": (
        "features:\n  - spending.amount\n  - {set: spending, features: ['*'], keys: {customer: payee}}\n",
        "a.yaml:5: features[1]: 'amount' is already made by features[0] (spending.amount)."
        " Add as: spending_*.",
    ),
    "a clash of stars": (
        "features:\n  - spending.*\n  - spending.amount\n",
        "a.yaml:5: features[1]: 'amount' is already made by features[0] (spending.*)."
        " Write 'spending.amount as spending_amount'.",
    ),
    "a star with one name": (
        "features: ['spending.* as spent']\n",
        "a.yaml:3: features[0]: 'spent' would name all features alike. Write spent_*.",
    ),
    "keys of another set": (
        "features:\n  - {set: spending, features: ['*'], keys: {shop: payee}}\n",
        "a.yaml:4: features[0]: keys: the feature set 'spending' has no entity 'shop'. Known: customer.",
    ),
    "a missing label": (
        "features: [spending.amount]\nlabel: labels.fraud\n",
        "a.yaml:4: label: the feature set 'labels' has no feature 'fraud'. Known: amount, merchant, shop.",
    ),
    "a label that is all features": (
        "features: [spending.amount]\nlabel: labels.*\n",
        "a.yaml:4: label: 'labels.*' is no single feature. Write set.feature.",
    ),
    "a label named as an output": (
        "features: [spending.amount]\nlabel: labels.amount\n",
        "a.yaml:4: label: 'amount' is already made by features[0] (spending.amount)."
        " Name it otherwise: labels.amount as label.",
    ),
    "a feature that is not online": (
        "features:\n  - labels.amount\n",
        "a.yaml:4: features[0]: the feature set 'labels' has online: false, so it serves as a label only."
        " Set online: true, or leave the feature out.",
    ),
    "no such base": (
        "features: [spending.amount]\nbase: spendin\n",
        "a.yaml:4: base: there is no feature set 'spendin'. Did you mean 'spending'?",
    ),
    "a key that the base has not": (
        "base: spending\nfeatures:\n"
        "  - {set: spending, features: [amount], keys: {customer: payee}, as: payee_*}\n",
        "a.yaml:5: features[0]: the key 'payee' of 'spending' is neither in the base 'spending' nor an input."
        " Map it with keys: {customer: <column>}, or declare inputs: {payee: string}."
        " Known: amount, at, id, merchant, shop, who.",
    ),
    "an input of another type than the key": (
        "inputs: {customer: int64}\nfeatures: [spending.amount]\n",
        "a.yaml:4: features[0]: the input 'customer' is of type int64, the entity 'customer' of type string.",
    ),
    "an output named as a key": (
        "features: [spending.amount as customer]\n",
        "a.yaml:3: features: 'customer' is the name of a key of the request as well."
        " Name the feature otherwise: 'set.customer as …'.",
    ),
    "a derived value named as an output": (
        "features: [spending.amount]\nderive:\n  amount: spending.amount + 1\n",
        "a.yaml:5: derive.amount: 'amount' is already made by features[0] (spending.amount)."
        " Give the value another name.",
    ),
    "an impute of nothing": (
        "features: [spending.amount]\nimpute:\n  amout: 0\n",
        "a.yaml:5: impute.amout: the vector has no output 'amout'. Did you mean 'amount'?",
    ),
    "an impute of another type": (
        "features: [spending.shop]\nimpute:\n  shop: 1.5\n",
        "a.yaml:5: impute.shop: 1.5 is no int64, the type of 'shop'.",
    ),
    "a mean of text": (
        "features: [spending.merchant]\nimpute:\n  merchant: $mean\n",
        "a.yaml:5: impute.merchant: 'merchant' is of type string, which has no mean. Did you mean '$mode'?",
    ),
    "no such statistic": (
        "features: [spending.amount]\nimpute:\n  amount: $meen\n",
        "a.yaml:5: impute.amount: '$meen' is no statistic. Did you mean '$mean'?",
    ),
}

CASES = {
    **{name: (source(text), message) for name, (text, message) in SOURCES.items()},
    **{name: (feature_set(text), message) for name, (text, message) in SETS.items()},
    **WHOLE_SETS,
    **{name: (vector(text), message) for name, (text, message) in VECTORS.items()},
}


def errors(folder: Path, text: str) -> SpecErrors:
    (folder / "featurestore.yaml").write_text("project: p\n")
    (folder / "base.yaml").write_text(BASE)
    (folder / "a.yaml").write_text(text)
    with pytest.raises(SpecErrors) as caught:
        compile_project(load_project(folder, environ={}))
    return caught.value


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_with_its_line_and_the_fix(tmp_path: Path, case: str) -> None:
    text, message = CASES[case]
    assert str(errors(tmp_path, text)) == message


def test_a_broken_set_is_told_once_and_not_again_by_what_reads_it(tmp_path: Path) -> None:
    text = feature_set("steps:\n  - drop: [x]\n---\n") + (
        "kind: FeatureSet\nname: child\nentities: [{customer: who}]\nsource: s\n---\n"
        "kind: FeatureVector\nname: v\nfeatures: [s.amount]\n---\n"
        "kind: FeatureVector\nname: w\nfeatures: [spending.amount]\nderive: {x: s.amount + 1}\n"
    )
    (only,) = errors(tmp_path, text).errors
    assert only.where == "a.yaml:6"


def test_all_mistakes_of_all_objects_are_told_at_once(tmp_path: Path) -> None:
    text = feature_set(
        "ttl: 0s\naggregations:\n  - {column: x, functions: [sum], windows: [1h]}\n"
        "  - {column: merchant, functions: [avg, sum], windows: [1h]}\n---\n"
    ) + vector("features: [spending.y, spending.z]\nbase: nothing\n")
    assert [error.where for error in errors(tmp_path, text).errors] == [
        "a.yaml:5",
        "a.yaml:7",
        "a.yaml:8",
        "a.yaml:8",
        "a.yaml:13",
        "a.yaml:12",
        "a.yaml:12",
    ]


def test_a_feature_named_as_a_key_of_the_label_is_refused(tmp_path: Path) -> None:
    text = (
        "kind: FeatureSet\nname: shops\nentities: [shop]\nsource: payments\n"
        "steps: [{select: [amount]}]\n---\n"
    ) + vector("features: [spending.shop]\nlabel: shops.amount\n")
    assert "features: 'shop' is the name of a key of the label as well." in str(errors(tmp_path, text))


def test_an_ambiguous_feature_in_derive_is_refused_with_the_names_to_use(tmp_path: Path) -> None:
    text = vector(
        "features:\n  - {set: spending, features: [amount], keys: {customer: payer}, as: payer_*}\n"
        "  - {set: spending, features: [amount], keys: {customer: payee}, as: payee_*}\n"
        "derive: {x: spending.amount + 1}\n"
    )
    assert str(errors(tmp_path, text)) == (
        "a.yaml:6: derive.x: 'spending.amount' could be by payer or by payee."
        " Use the names that the vector gives them, such as payer_amount or payee_amount."
    )


def test_a_typo_in_an_inline_source_is_told_with_its_own_line(tmp_path: Path) -> None:
    text = (
        "kind: FeatureSet\nname: s\nentities: [{customer: who}]\nsource:\n  name: inner\n"
        "  event_time: att\n  schema: {who: string, at: timestamp}\n"
    )
    assert str(errors(tmp_path, text)) == (
        "a.yaml:6: event_time: there is no column 'att'. Did you mean 'at'?"
    )
