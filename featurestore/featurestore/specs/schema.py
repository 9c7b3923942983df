"""JSON Schema of spec files and of featurestore.yaml, for completion and checks in editors.

`python -m featurestore.specs.schema specs/schema` writes `spec.json` and `project.json`. Editors that
use the YAML language server take one with the first line
`# yaml-language-server: $schema=…/spec.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from featurestore.aggregates import function_names
from featurestore.specs.cases import TESTS, Test
from featurestore.specs.models import DECLARATIONS
from featurestore.specs.project import ProjectConfig

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def spec_schema() -> dict[str, Any]:
    """Return the schema of one document of a spec file: a declaration, told by its `kind`, or cases."""
    references, definitions = models_json_schema(
        [(model, "validation") for model in (*DECLARATIONS, Test)], ref_template="#/$defs/{model}"
    )
    functions = definitions["$defs"]["Aggregation"]["properties"]["functions"]
    functions["items"]["enum"] = function_names()
    kinds = []
    for model in DECLARATIONS:
        reference = references[(model, "validation")]["$ref"]
        kinds.append(
            {
                "title": model.__name__,
                "required": ["kind"],
                "properties": {"kind": {"const": model.__name__}},
                "$ref": reference,
            }
        )
    cases = {"type": "array", "items": {"$ref": references[(Test, "validation")]["$ref"]}}
    kinds.append(
        {
            "title": "Tests",
            "description": "Cases of the project's own, run by `featurestore test`.",
            "type": "object",
            "required": [TESTS],
            "properties": {TESTS: cases},
            "additionalProperties": False,
        }
    )
    return {
        "$schema": _DIALECT,
        "title": "A declaration of a feature store",
        "description": "An Entity, a Source, a FeatureSet, a FeatureVector, or tests. A file may hold many.",
        "type": "object",
        "anyOf": kinds,
        "$defs": _untitled(definitions["$defs"]),
    }


def project_schema() -> dict[str, Any]:
    """Return the schema of featurestore.yaml."""
    schema: dict[str, Any] = _untitled(ProjectConfig.model_json_schema())
    return {"$schema": _DIALECT, **schema, "title": "Settings of a feature store project"}


def texts() -> dict[str, str]:
    """Return the files' contents by their names."""
    schemas = {"project.json": project_schema(), "spec.json": spec_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def _untitled(node: Any) -> Any:
    """Return a schema without the titles that pydantic makes of field names."""
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if key == "title" and isinstance(value, str) and "properties" not in node:
            continue
        if key == "properties":
            kept[key] = {name: _untitled(item) for name, item in value.items()}
        else:
            kept[key] = _untitled(value)
    return kept


def main() -> None:
    """Write the schemas to the folder that is named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m featurestore.specs.schema", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
