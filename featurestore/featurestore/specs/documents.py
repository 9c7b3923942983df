"""YAML 1.2 files as plain values, with the line of every key (DESIGN 4).

Only true and false are booleans, dates stay text, and a key that is written twice is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from featurestore.errors import SpecError
from featurestore.specs.origins import KeyPath, Origin, shown
from featurestore.specs.problems import Problems, SpecErrors

_TAG = "tag:yaml.org,2002:"
_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


@dataclass(frozen=True)
class Document:
    """One document of a file: its value and where each part of it was written."""

    value: Any
    origin: Origin


def read_documents(path: Path) -> list[Document]:
    """Return the documents of a YAML file, empty ones left out. Raises SpecErrors with file:line."""
    file = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"the file is no UTF-8 text: {error.reason}.", where=file) from error
    try:
        nodes = list(YAML(typ="safe", pure=True).compose_all(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        raise SpecErrors([SpecError(f"{error.problem or error.context}.", where=where)]) from error
    except YAMLError as error:
        raise SpecErrors([SpecError(f"{error}.", where=file)]) from error
    problems = Problems()
    documents = []
    for node in nodes:
        if node is None or (isinstance(node, ScalarNode) and node.tag == f"{_TAG}null"):
            continue
        builder = _Builder(file, problems)
        value = builder.build(node, ())
        documents.append(Document(value, Origin(file, builder.first(node), builder.lines)))
    problems.check()
    return documents


class _Builder:
    """Builds a document's value and notes the line of each key path."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.file = file
        self.problems = problems
        self.lines: dict[KeyPath, int] = {}
        self.open: set[int] = set()

    def first(self, node: Node) -> int:
        """Return the line, from 1, on which a node begins."""
        return int(node.start_mark.line) + 1

    def fail(self, node: Node, message: str, hint: str | None = None) -> None:
        self.problems.add(SpecError(message, where=f"{self.file}:{self.first(node)}", hint=hint))

    def build(self, node: Node, path: KeyPath) -> Any:
        """Return the value of a node and note the lines below `path`."""
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            self.fail(node, "an alias refers to what it is part of.")
            return None
        self.open.add(id(node))
        value = self.sequence(node, path) if isinstance(node, SequenceNode) else self.mapping(node, path)
        self.open.discard(id(node))
        return value

    def sequence(self, node: SequenceNode, path: KeyPath) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*path, index)] = self.first(item)
            items.append(self.build(item, (*path, index)))
        return items

    def mapping(self, node: Node, path: KeyPath) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        if not isinstance(node, MappingNode):
            return result
        merged: list[Node] = []
        seen: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.fail(key_node, "a key is a single value here, no list or mapping.")
                continue
            if key_node.tag == f"{_TAG}merge":
                merged.extend(value_node.value if isinstance(value_node, SequenceNode) else [value_node])
                continue
            key = self.scalar(key_node)
            if key in seen:
                self.fail(
                    key_node, f"'{key}' is written twice, first on line {seen[key]}.", "Keep one of the two."
                )
                continue
            seen[key] = self.first(key_node)
            self.lines[(*path, key)] = self.first(key_node)
            result[key] = self.build(value_node, (*path, key))
        for part in merged:
            for key, value in self.merge(part, path).items():
                result.setdefault(key, value)
        return result

    def merge(self, node: Node, path: KeyPath) -> dict[Any, Any]:
        """Return what `<<:` brings in; lines of keys that are written here stay."""
        if not isinstance(node, MappingNode):
            self.fail(node, "<<: takes a mapping, such as *anchor.")
            return {}
        inner = _Builder(self.file, self.problems)
        inner.open = self.open
        value = inner.build(node, path)
        for key, line in inner.lines.items():
            self.lines.setdefault(key, line)
        return dict(value or {})

    def scalar(self, node: ScalarNode) -> Any:
        """Return a scalar by YAML 1.2's core schema; dates and times stay as they are written."""
        tag, text = str(node.tag).removeprefix(_TAG), str(node.value)
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return text.lower() == "true"
            if tag == "int":
                return int(text, 0) if text.lstrip("+-")[:2] in ("0o", "0x") else int(text)
            if tag == "float":
                return float(_FLOATS.get(text.lower(), text))
        except ValueError:
            self.fail(node, f"'{text}' is no {tag}.", "Put quotes around text.")
            return None
        if tag not in ("str", "timestamp", "merge", "value"):
            self.fail(node, f"the tag {tag} is not known here.", "Write the value without it.")
        return text
