"""The table of mutations fits the source: each text is there, once, and what takes its place is Python."""

from __future__ import annotations

import ast

import pytest
from mutants import ROOT, Mutation, mutations

TABLE = mutations()


@pytest.mark.parametrize("mutation", TABLE, ids=lambda m: f"{m.topic}-{m.name}")
def test_a_mutation_applies_to_the_source_and_its_tests_exist(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    mutated = mutation.applied(text)
    assert mutated != text
    ast.parse(mutated)
    files = [test.partition("::") for test in mutation.tests if test.startswith("tests/")]
    assert files
    for file, _, name in files:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name.partition('[')[0]}(" in source, f"{file} has no {name}"


def test_no_name_is_used_twice() -> None:
    names = [mutation.name for mutation in TABLE]
    assert len(names) == len(set(names))


def test_a_text_that_is_not_there_once_is_an_error() -> None:
    mutation = Mutation("t", "n", "a.py", "x = 1", "x = 2", ())
    with pytest.raises(ValueError, match="0 times"):
        mutation.applied("y = 1\n")
    with pytest.raises(ValueError, match="2 times"):
        mutation.applied("x = 1\nx = 1\n")
    behind = Mutation("t", "n", "a.py", "x = 1", "x = 2", (), after="def b")
    assert behind.applied("x = 1\ndef b(): x = 1\n") == "x = 1\ndef b(): x = 2\n"
    with pytest.raises(ValueError, match="lacks"):
        behind.applied("x = 1\ndef b(): pass\n")
