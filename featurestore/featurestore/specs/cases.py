"""A user's own cases: rows in, and the values expected at an instant (`featurestore test`).

They stand beside declarations, in documents with `tests:` or as `featurestore.Test` in Python files, and
are no part of any version: `plan` and `apply` pass them over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, StrictBool, model_validator

from featurestore.errors import SpecError
from featurestore.instants import parse_instant
from featurestore.specs.fields import Name
from featurestore.specs.models import Declared, VectorName
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.specs.validation import validate

TESTS = "tests"
"""The key of a document that holds cases."""


def _instant(at: str | datetime) -> str | datetime:
    try:
        parse_instant(at)
    except ValueError as error:
        raise ValueError(f"'{at}' is no instant: {error}") from None
    return at


class Test(Declared):
    """A case: the rows that there are, an instant, and the values that features then have."""

    __test__: ClassVar[bool] = False  # no class of tests, though pytest would take it for one

    name: Annotated[str, Field(min_length=1)]
    """What the case shows, in a few words; each name is used once."""
    vector: VectorName | None = None
    """The feature vector that is tested, or else:"""
    set: Name | None = None
    """The feature set that is tested, with all its features."""
    rows: dict[Name, tuple[dict[str, Any], ...]] = Field(default_factory=dict)
    """Per source its rows, in the order in which they come. `__ingest_time` says when a row became known."""
    at: Annotated[str | datetime, AfterValidator(_instant)] | None = None
    """The instant of the question; with a base it is the event time of the row that is scored."""
    request: dict[str, Any] | None = None
    """Keys and inputs, or the row that is scored. Default: the one key, or the newest row, that there is."""
    expect: Annotated[dict[str, Any], Field(min_length=1)]
    """Feature to value; only those that are named are compared."""
    as_known: StrictBool = False
    """Whether only rows that were known at the instant count."""
    tolerance: Annotated[float, Field(ge=0)] = 1e-9
    """How far a float may lie from the value expected, as a share of it; 0 asks for the very bits."""

    @model_validator(mode="after")
    def _complete(self) -> Test:
        if (self.vector is None) == (self.set is None):
            raise ValueError("a case names what it tests: vector: or set:, one of the two.")
        return self


@dataclass(frozen=True)
class WrittenTest:
    """A case as it was written, its form not checked yet: plain values, or a Test of a Python file."""

    value: Any
    origin: Origin


@dataclass(frozen=True)
class LoadedTest:
    """A case and where it was written."""

    test: Test
    origin: Origin


def written_tests(document: Any, origin: Origin) -> list[WrittenTest]:
    """Return the cases of a document with `tests:`; what is wrong with its form is said by `parse_tests`."""
    cases = document[TESTS]
    if not isinstance(cases, list) or len(document) > 1:
        return [WrittenTest(document, origin)]
    return [WrittenTest(case, origin.below(TESTS, place)) for place, case in enumerate(cases)]


def parse_tests(written: Iterable[WrittenTest]) -> tuple[LoadedTest, ...]:
    """Return the cases, checked for form. Raises SpecErrors with every mistake, each with file:line."""
    problems = Problems()
    found: list[LoadedTest] = []
    names: dict[str, Origin] = {}
    for item in written:
        with problems.collect():
            test = item.value if isinstance(item.value, Test) else _parsed(item)
            if test.name in names:
                raise SpecError(
                    f"name: there is a case '{test.name}' already, at {names[test.name].where('name')}.",
                    where=item.origin.where("name"),
                    hint="Say what this one shows.",
                )
            names[test.name] = item.origin
            found.append(LoadedTest(test, item.origin))
    problems.check()
    return tuple(found)


def _parsed(item: WrittenTest) -> Test:
    if isinstance(item.value, dict) and TESTS in item.value:
        other = next((key for key in item.value if key != TESTS), None)
        raise SpecError(
            "tests: is a list of cases." if other is None else f"there is '{other}' beside tests:.",
            where=item.origin.where(TESTS if other is None else other),
            hint="Write tests: in a document of its own, and below it - {name: …, vector: …, rows: …}.",
        )
    if not isinstance(item.value, dict):
        raise SpecError("a case is a mapping, with name:.", where=item.origin.where())
    return validate(Test, item.value, item.origin)
