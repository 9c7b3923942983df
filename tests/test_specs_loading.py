"""A project's folder is read into the same declarations from YAML and Python, each with its line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from featurestore.specs import (
    Aggregation,
    BatchHalf,
    Entity,
    FeatureSelection,
    FeatureSet,
    FeatureVector,
    Source,
    SpecErrors,
    StreamHalf,
    load_declarations,
    load_project,
)
from featurestore.steps import DateParts, Derive

YAML = """\
kind: Entity
name: customer
type: string
---
kind: Source
name: payments
event_time: at
event_id: [id]
schema:
  id: string
  who: string
  at: timestamp
  amount: float64
batch: {kind: parquet, path: "data/*.parquet"}
stream: {topic: transactions}
---
kind: FeatureSet
name: spending
entities: [{customer: who}]
source: payments
steps: [{date_parts: {column: at, parts: [hour]}}, {derive: {double: amount * 2}}]
aggregations:
  - {column: amount, functions: [sum, avg], windows: [2h, 14d]}
  - column: amount
    where: amount > 0
    name: positive
    functions: [count]
    windows: [1d]
---
kind: FeatureVector
name: fraud-check
features:
  - spending.*
  - {set: spending, features: ["*"], keys: {customer: payee}, as: payee_*}
impute: {"*": 0}
"""

PYTHON = """\
from featurestore.specs import *
from featurestore.steps import DateParts

customer = Entity(name="customer", type="string")
payments = Source(
    name="payments",
    event_time="at",
    event_id=["id"],
    schema={"id": "string", "who": "string", "at": "timestamp", "amount": "float64"},
    batch=BatchHalf(kind="parquet", path="data/*.parquet"),
    stream=StreamHalf(topic="transactions"),
)
objects = [
    FeatureSet(
        name="spending",
        entities=[{customer: "who"}],
        source="payments",
        steps=[DateParts(column="at", parts=["hour"]), {"derive": {"double": "amount * 2"}}],
        aggregations=[
            Aggregation(column="amount", functions=["sum", "avg"], windows=["2h", "14d"]),
            {"column": "amount", "where": "amount > 0", "name": "positive",
             "functions": ["count"], "windows": ["1d"]},
        ],
    ),
    FeatureVector(
        name="fraud-check",
        features=[
            "spending.*",
            FeatureSelection(set="spending", features=["*"], keys={"customer": "payee"}, as_="payee_*"),
        ],
        impute={"*": 0},
    ),
]
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(folder: Path, **files: str) -> Path:
    """Write files, named with `__` for folders and `_dot_` for the suffix's dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_yaml_and_python_give_equal_objects(tmp_path: Path) -> None:
    left = load_declarations(write(tmp_path / "left", all_dot_yaml=YAML))
    right = load_declarations(write(tmp_path / "right", all_dot_py=PYTHON))
    assert [item.declaration for item in left] == [item.declaration for item in right]
    assert left[0].declaration == Entity(name="customer")
    assert left[1].declaration == Source(
        name="payments",
        event_time="at",
        event_id=("id",),
        schema={"id": "string", "who": "string", "at": "timestamp", "amount": "float64"},
        batch=BatchHalf(kind="parquet", path="data/*.parquet"),
        stream=StreamHalf(topic="transactions"),
    )
    assert left[2].declaration == FeatureSet(
        name="spending",
        entities=({"customer": "who"},),
        source="payments",
        steps=(DateParts(column="at", parts=("hour",)), Derive({"double": "amount * 2"})),
        aggregations=(
            Aggregation(column="amount", functions=("sum", "avg"), windows=("2h", "14d")),
            Aggregation(
                column="amount", where="amount > 0", name="positive", functions=("count",), windows=("1d",)
            ),
        ),
    )
    vector = left[3].declaration
    assert isinstance(vector, FeatureVector)
    assert vector.features[1] == FeatureSelection.model_validate(
        {"set": "spending", "features": ["*"], "keys": {"customer": "payee"}, "as": "payee_*"}
    )


def test_a_dump_reads_back_as_the_same_object(tmp_path: Path) -> None:
    for item in load_declarations(write(tmp_path, all_dot_yaml=YAML)):
        declared = item.declaration
        assert type(declared).model_validate(declared.model_dump(mode="json", by_alias=True)) == declared


def test_every_key_path_knows_its_line(tmp_path: Path) -> None:
    places = {
        item.declaration.name: item.origin for item in load_declarations(write(tmp_path, all_dot_yaml=YAML))
    }
    assert places["customer"].where() == "all.yaml:1"
    assert places["payments"].where() == "all.yaml:5"
    assert places["payments"].where("schema", "who") == "all.yaml:11"
    assert places["payments"].where("batch", "path") == "all.yaml:14"
    assert places["spending"].where("aggregations", 1, "name") == "all.yaml:26"
    assert places["spending"].where("aggregations", 1, "k") == "all.yaml:24"  # not written: its object
    assert places["spending"].where("ttl") == "all.yaml:17"
    assert places["fraud-check"].where("features", 1, "as") == "all.yaml:34"


def test_python_objects_know_the_lines_of_their_arguments(tmp_path: Path) -> None:
    places = {
        item.declaration.name: item.origin for item in load_declarations(write(tmp_path, all_dot_py=PYTHON))
    }
    assert places["customer"].where() == "all.py:4"
    assert places["payments"].where("schema", "amount") == "all.py:9"
    assert places["spending"].where("aggregations", 0) == "all.py:20"
    assert places["spending"].where("aggregations", 1, "windows") == "all.py:22"
    assert places["fraud-check"].where("features", 0) == "all.py:28"


def test_objects_from_a_loop_point_at_the_call_that_made_them(tmp_path: Path) -> None:
    text = (
        "from featurestore.specs import Entity\n\n\n"
        "def make(name):\n    return Entity(name=name,\n        type='int64')\n\n\n"
        "entities = [make(name) for name in ('a', 'b')]\n"
    )
    items = load_declarations(write(tmp_path, loop_dot_py=text))
    assert [item.declaration.name for item in items] == ["a", "b"]
    assert items[0].origin.where("type") == "loop.py:6"


def test_files_and_folders_that_hold_no_specs_are_left_out(tmp_path: Path) -> None:
    broken = "a: ["
    write(
        tmp_path,
        data__rows_dot_yaml=broken,
        schema__x_dot_yaml=broken,
        deep__down__ok_dot_yml="kind: Entity\nname: deep\n",
        ok_dot_yaml="kind: Entity\nname: shallow\n",
        script_dot_py="from featurestore import FeatureStore\nraise SystemExit('scripts are not run')\n",
        _helper_dot_py="raise SystemExit('nor are private modules')\n",
        notes_dot_txt=broken,
    )
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.yaml").write_text(broken)
    assert [item.declaration.name for item in load_declarations(tmp_path)] == ["deep", "shallow"]


def test_spec_files_may_import_one_another_and_leave_no_module_behind(tmp_path: Path) -> None:
    write(
        tmp_path,
        shared_dot_py="from featurestore.specs import Entity\ncustomer = Entity(name='customer')\n",
        main_dot_py=(
            "import shared\nfrom shared import customer\nfrom featurestore.specs import Entity\n"
            "merchant = Entity(name='merchant', owner=shared.customer.name)\n"
        ),
    )
    before, path = set(sys.modules), list(sys.path)
    items = load_declarations(tmp_path)
    assert [item.declaration.name for item in items] == ["customer", "merchant"]
    assert items[0].origin.where() == "shared.py:2"
    assert set(sys.modules) == before
    assert sys.path == path
    assert not (tmp_path / "__pycache__").exists()


def test_yaml_is_1_2(tmp_path: Path) -> None:
    text = (
        "kind: Entity\nname: e\ndescription: yes\nowner: 2026-01-01\ntags: [on, off, 12:30, 'true', no]\n"
        "---\n"
        "kind: FeatureVector\nname: v\nfeatures: [a.b]\nimpute: {a: 0o17, b: 017, c: 1e3, d: ~, e: true}\n"
    )
    entity, vector = (item.declaration for item in load_declarations(write(tmp_path, a_dot_yaml=text)))
    assert (entity.description, entity.owner) == ("yes", "2026-01-01")
    assert entity.tags == ("on", "off", "12:30", "true", "no")
    assert isinstance(vector, FeatureVector)
    assert vector.impute == {"a": 15, "b": 17, "c": 1000.0, "d": None, "e": True}


def test_anchors_and_merges_are_read_and_keys_written_here_win(tmp_path: Path) -> None:
    text = (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\naggregations:\n"
        "  - &base {column: a, functions: [sum], windows: [1h]}\n"
        "  - {<<: *base, column: b}\n"
    )
    (item,) = load_declarations(write(tmp_path, a_dot_yaml=text))
    assert isinstance(item.declaration, FeatureSet)
    assert item.declaration.aggregations[1] == Aggregation(column="b", functions=("sum",), windows=("1h",))
    assert item.origin.where("aggregations", 1, "column") == "a.yaml:7"


MISTAKES = {
    "unknown field": (
        "kind: Entity\nname: a\ntpe: string\n",
        "a.yaml:3: there is no field 'tpe'. Did you mean 'type'?",
    ),
    "unknown kind": (
        "kind: FeatureSett\nname: a\n",
        "a.yaml:1: kind: 'FeatureSett' is no kind. Did you mean 'FeatureSet'?",
    ),
    "no kind": (
        "name: a\n",
        "a.yaml:1: a declaration needs kind:. One of Entity, Source, FeatureSet, FeatureVector.",
    ),
    "no mapping": ("- 1\n- 2\n", "a.yaml:1: a declaration is a mapping with kind:, found a list."),
    "duplicate key": (
        "kind: Entity\nname: a\n\nname: b\n",
        "a.yaml:4: 'name' is written twice, first on line 2. Keep one of the two.",
    ),
    "a type of features": (
        "kind: Source\nname: s\nevent_time: at\nschema:\n  at: map<string,int64>\n",
        "a.yaml:5: schema.at: map<string,int64> is the type of features only, no column's.",
    ),
    "wrong type of column": (
        "kind: Source\nname: s\nevent_time: at\nschema:\n  at: timestmp\n",
        "a.yaml:5: schema.at: 'timestmp' is no type. Did you mean 'timestamp'?",
    ),
    "two underscores": (
        "kind: Source\nname: s\nevent_time: at\nschema: {at: timestamp, __key: string}\n",
        "a.yaml:4: schema.__key: '__key' is no name. Use letters, digits and underscores;"
        " no digit and no two underscores first.",
    ),
    "bad duration": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\naggregations:\n"
        "  - {column: a, functions: [sum], windows: [2hours]}\n",
        "a.yaml:6: aggregations[0].windows[0]: '2hours' is no duration."
        " Write a number and a unit: us, ms, s, m, h, d, w, or lifetime.",
    ),
    "bad history": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nhistory: every\n",
        "a.yaml:5: history: 'every' is no duration."
        " Write a number and a unit: us, ms, s, m, h, d, w, or all.",
    ),
    "a point of one number": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nsteps:\n"
        "  - haversine: {from: [a], to: [0, 0], into: km}\n",
        "a.yaml:6: steps[0].haversine.from: item 2 is missing.",
    ),
    "a point of three numbers": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nsteps:\n"
        "  - haversine: {from: [a, b, c], to: [0, 0], into: km}\n",
        "a.yaml:6: steps[0].haversine.from: it is too long. Write at most 2.",
    ),
    "missing field": (
        "kind: FeatureSet\nname: s\nentities: [e]\n",
        "a.yaml:1: 'source:' is missing.",
    ),
    "missing item": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nsteps:\n"
        "  - haversine: {from: [lat], to: [0, 0], into: km}\n",
        "a.yaml:6: steps[0].haversine.from: item 2 is missing.",
    ),
    "text for a list": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\naggregations:\n"
        "  - column: a\n    functions: sum\n    windows: [1h]\n",
        "a.yaml:7: aggregations[0].functions: expected a list, found 'sum'. Write [sum].",
    ),
    "yes for true": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nonline: yes\n",
        "a.yaml:5: online: expected true or false, found 'yes'.",
    ),
    "bad name": (
        "kind: Entity\nname: My Customer\n",
        "a.yaml:2: name: 'My Customer' is no name."
        " Use lower-case letters, digits and underscores, a letter first.",
    ),
    "unknown choice": (
        "kind: Source\nname: s\nevent_time: at\nschema: {at: timestamp}\nbatch: {kind: parqet, path: x}\n",
        "a.yaml:5: batch.kind: 'parqet' is not allowed. Did you mean 'parquet'?",
    ),
    "by without values": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\naggregations:\n"
        "  - {by: c, functions: [count], windows: [1h]}\n",
        "a.yaml:6: aggregations[0]: by: needs values:, the categories to count.",
    ),
    "no such step": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nsteps:\n"
        "  - date_prts: {column: a, parts: [hour]}\n",
        "a.yaml:6: steps[0]: 'date_prts' is no step. Did you mean 'date_parts'?",
    ),
    "a step's field": (
        "kind: FeatureSet\nname: s\nentities: [e]\nsource: p\nsteps:\n"
        "  - date_parts:\n      colum: a\n      parts: [hour]\n      column: a\n",
        "a.yaml:7: steps[0].date_parts: there is no field 'colum'. Did you mean 'column'?",
    ),
    "no YAML": ("kind: [Entity\n", "a.yaml:2: expected ',' or ']', but got '<stream end>'."),
    "tag": ("kind: !Entity x\n", "a.yaml:1: the tag !Entity is not known here. Write the value without it."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_the_fix(tmp_path: Path, mistake: str) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(SpecErrors) as caught:
        load_declarations(write(tmp_path, a_dot_yaml=text))
    assert str(caught.value) == message


PYTHON_MISTAKES = {
    "in a model": (
        "from featurestore.specs import Entity\n\nx = Entity(\n    name='a',\n    tpe='string',\n)\n",
        "a.py:5: there is no field 'tpe'. Did you mean 'type'?",
    ),
    "in a nested model": (
        "from featurestore.specs import Aggregation\n\nx = [\n    Aggregation(\n"
        "        functions=['sum'],\n        windows=['soon'])\n]\n",
        "a.py:6: windows[0]: 'soon' is no duration."
        " Write a number and a unit: us, ms, s, m, h, d, w, or lifetime.",
    ),
    "in the code": (
        "from featurestore.specs import Entity\n\n\ndef name():\n    return {}['x']\n\n\n"
        "x = Entity(name=name())\n",
        "a.py:5: KeyError: 'x'",
    ),
    "in the syntax": (
        "from featurestore.specs import Entity\nx = Entity(\n",
        "a.py:2: '(' was never closed.",
    ),
}


@pytest.mark.parametrize("mistake", PYTHON_MISTAKES)
def test_a_mistake_in_python_is_told_with_its_line(tmp_path: Path, mistake: str) -> None:
    text, message = PYTHON_MISTAKES[mistake]
    with pytest.raises(SpecErrors) as caught:
        load_declarations(write(tmp_path, a_dot_py=text))
    assert str(caught.value) == message


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        featurestore_dot_yaml="project: p\nonlin: {}\n",
        a_dot_yaml="kind: Entity\nname: A\ntype: int65\n---\nkind: Entity\n",
        b__c_dot_yaml="kind: Entity\nname: b\nname: c\n",
    )
    with pytest.raises(SpecErrors) as caught:
        load_project(tmp_path)
    assert [str(error).split(": ")[0] for error in caught.value.errors] == [
        "featurestore.yaml:2",
        "a.yaml:2",
        "a.yaml:3",
        "a.yaml:5",
        "b/c.yaml:3",
    ]
    assert len(str(caught.value).splitlines()) == 5
