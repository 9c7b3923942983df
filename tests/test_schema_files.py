"""The JSON Schema files are those of the models, complete enough for an editor to help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featurestore.aggregates import function_names
from featurestore.specs.models import DECLARATIONS
from featurestore.specs.schema import texts
from featurestore.steps.base import kinds

FOLDER = Path(__file__).parent.parent / "specs" / "schema"


@pytest.mark.parametrize("name", ["project.json", "spec.json"])
def test_the_committed_files_are_fresh(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == texts()[name], "run: python -m featurestore.specs.schema specs/schema"


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(texts()[name])
    return found


def test_each_kind_is_told_by_its_constant() -> None:
    *branches, cases = schema("spec.json")["anyOf"]
    assert [branch["properties"]["kind"]["const"] for branch in branches] == [
        "Entity",
        "Source",
        "FeatureSet",
        "FeatureVector",
    ]
    assert all(branch["required"] == ["kind"] for branch in branches)
    assert cases["required"] == ["tests"]
    assert cases["properties"]["tests"]["items"] == {"$ref": "#/$defs/Test"}


def test_every_field_of_a_declaration_is_described_and_no_other_is_allowed() -> None:
    definitions = schema("spec.json")["$defs"]
    for name in (*(model.__name__ for model in DECLARATIONS), "Aggregation", "FeatureSelection", "Test"):
        assert definitions[name]["additionalProperties"] is False
        assert definitions[name]["description"]
        for field, about in definitions[name]["properties"].items():
            assert field == "kind" or about.get("description") or field in ("batch", "stream"), (name, field)


def test_steps_and_functions_are_listed() -> None:
    definitions = schema("spec.json")["$defs"]
    steps = definitions["FeatureSet"]["properties"]["steps"]["items"]["oneOf"]
    assert [step["required"] for step in steps] == [[key] for key in kinds()]
    assert definitions["Aggregation"]["properties"]["functions"]["items"]["enum"] == function_names()


def test_every_reference_leads_somewhere() -> None:
    for name in ("project.json", "spec.json"):
        found = schema(name)

        def walk(node: Any, root: dict[str, Any] = found) -> None:
            if isinstance(node, dict):
                if isinstance(target := node.get("$ref"), str):
                    assert target.removeprefix("#/$defs/") in root["$defs"]
                for value in node.values():
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)

        walk(found)
