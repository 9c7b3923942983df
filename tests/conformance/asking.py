"""Answers of the stores, and of the oracle, to a case's questions, and how they are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import oracle
import polars as pl
from conformance.arriving import rows_of
from conformance.cases import Case, Question, instant, typed
from conformance.judge import Judge

from featurestore import FeatureStore
from featurestore.keys import cast_key
from featurestore.online.requests import outward
from featurestore.plans import VectorPlan
from featurestore.types import DataType

Answer = dict[str, Any]
AT = "at"


class Asked:
    """A case's questions to one vector, typed: what each asks, at which instant."""

    def __init__(self, case: Case, plan: VectorPlan, questions: Sequence[Question]) -> None:
        self.case = case
        self.plan = plan
        self.rows = [self._row(question) for question in questions]
        self.times = [
            row[plan.base.source.event_time or ""] if plan.base else instant(question.asked[AT], case.t0)
            for row, question in zip(self.rows, questions, strict=True)
        ]

    def _row(self, question: Question) -> Answer:
        """Return the typed base row, or keys and inputs."""
        if self.plan.base is not None:
            source = self.plan.base.source
            [row] = rows_of(
                Case(
                    "",
                    "",
                    "",
                    self.case.t0,
                    {source.name: [question.asked]},
                    {},
                    (),
                    (),
                    None,
                    frozenset(),
                    frozenset(),
                ),
                source,
            )
            inputs = {f.name: typed(question.asked[f.name], f.type, self.case.t0) for f in self.plan.inputs}
            return row | inputs
        kinds = self._kinds()
        return {
            name: self._cell(value, kinds.get(name))
            for name, value in question.asked.items()
            if name != AT or AT in kinds
        }

    def _cell(self, value: Any, kind: DataType | None) -> Any:
        """Return a cell as the caller says it: of its own type, unless text stands for it."""
        if kind is not None and kind.name in ("timestamp", "date", "binary", "decimal") and value is not None:
            return outward(typed(value, kind, self.case.t0), kind)
        return value

    def _kinds(self) -> dict[str, DataType]:
        kinds = {f.name: f.type for f in self.plan.inputs}
        for lookup in self.plan.lookups:
            for column, key in zip(lookup.keys, lookup.set.keys, strict=True):
                if column in lookup.given_keys:
                    kinds[column] = key.type
        return kinds

    def frame(self) -> pl.DataFrame:
        """Return the questions as entity rows, or as raw rows of the base."""
        schema = {f.name: f.type.polars() for f in self.plan.inputs}
        if self.plan.base is not None:
            schema |= {f.name: f.type.polars() for f in self.plan.base.source.schema}
        else:
            for name, kind in self._kinds().items():
                if all(_fits(row[name], kind) for row in self.rows):
                    schema[name] = kind.polars()
        columns = []
        for name in self.rows[0]:
            values = [row[name] for row in self.rows]
            kind = schema.get(name)
            physical = {pl.Date: pl.Int32, pl.Datetime: pl.Int64}.get(type(kind), kind)
            if all(value is None or isinstance(value, int) for value in values) and kind is not None:
                columns.append(pl.Series(name, values, physical).cast(kind))
            else:
                columns.append(pl.Series(name, values, kind))
        at = pl.Series("__t", self.times, pl.Int64).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame(columns).with_columns(at)

    def requests(self) -> list[Answer]:
        """Return the questions as requests."""
        if self.plan.base is None:
            return self.rows
        kinds = {f.name: f.type for f in (*self.plan.base.source.schema, *self.plan.inputs)}
        return [{name: outward(value, kinds[name]) for name, value in row.items()} for row in self.rows]


def _fits(value: Any, kind: DataType) -> bool:
    if value is None:
        return True
    try:
        return type(cast_key(value, kind)) is type(value) or kind.name in ("date", "timestamp")
    except ValueError:
        return False


def online_now(store: FeatureStore, asked: Asked, reference: Any) -> list[Answer]:
    """Return what is served at the present instant, which is each question's own."""
    vector = store.vector(reference)
    answers = []
    for request, t in zip(asked.requests(), asked.times, strict=True):
        answers += _named(vector.get_online([request], now=t))
    return answers


def online_as_of(store: FeatureStore, asked: Asked, reference: Any) -> list[Answer]:
    """Return what is served as of each question's instant, all in one request."""
    vector = store.vector(reference)
    times = None if asked.plan.base is not None else asked.times
    return _named(vector.get_online(asked.requests(), as_of=times, now=max(asked.times)))


def _named(result: Any) -> list[Answer]:
    names = [f.name for f in result.columns]
    answers = []
    for values, status, error in zip(result.rows, result.status, result.errors, strict=True):
        answer = dict(zip(names, values, strict=True))
        answer |= {f"{name}?": said for name, said in zip(names, status, strict=True)}
        answers.append(answer | {"error": error})
    return answers


def training(store: FeatureStore, asked: Asked, reference: Any) -> list[Answer]:
    """Return the training rows of the questions."""
    return _trained(store, asked, reference, as_known=False)


def as_known(store: FeatureStore, asked: Asked, reference: Any) -> list[Answer]:
    """Return the training rows of the questions, of what was known at their instants."""
    return _trained(store, asked, reference, as_known=True)


def _trained(store: FeatureStore, asked: Asked, reference: Any, *, as_known: bool) -> list[Answer]:
    made = store.vector(reference).get_offline(asked.frame(), "__t", as_known=as_known)
    names = [f.name for f in asked.plan.outputs] + ([made.label] if made.label else [])
    return natural_rows(made.to_polars().select(names))


def natural_rows(frame: pl.DataFrame) -> list[Answer]:
    """Return a frame's rows as row values: histograms, which frames hold as entries, are dictionaries."""
    rows = oracle.rows_of(frame)
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct):
            for row in rows:
                entries = row[name]
                row[name] = (
                    None if entries is None else {oracle._natural(e["key"]): e["value"] for e in entries}
                )
    return rows


def judged(asked: Asked, rows: Mapping[str, Sequence[Answer]], *, as_known: bool) -> list[Answer]:
    """Return what the oracle says."""
    judge = Judge(asked.plan, rows)
    return [judge.vector(row, t, as_known=as_known) for row, t in zip(asked.rows, asked.times, strict=True)]


ASK: Mapping[str, Callable[[FeatureStore, Asked, Any], list[Answer]]] = {
    "now": online_now,
    "as_of": online_as_of,
    "training": training,
    "as_known": as_known,
}


def check(asked: Asked, expected: Sequence[Question], got: Sequence[Answer], reading: str) -> int:
    """Fail where a value is another than the table's, naming each; return how many were compared."""
    kinds = {f.name: f.type for f in asked.plan.outputs}
    if asked.plan.label is not None:
        kinds[asked.plan.label.output] = asked.plan.label.type
    wrong, compared = [], 0
    for question, answer in zip(expected, got, strict=True):
        for name, cell in question.gives.items():
            if name not in answer and (name.endswith("?") or name == "error" or name not in _names(asked)):
                continue  # statuses and errors are of online vectors, labels of training sets
            compared += 1
            if not _agrees(cell, answer[name], kinds.get(name), asked.case.t0):
                wrong.append(f"{dict(question.asked)}: {name} is {answer[name]!r}, and should be {cell!r}")
    assert not wrong, f"{asked.case.id}, {reading}:\n" + "\n".join(wrong)
    return compared


def _names(asked: Asked) -> set[str]:
    return {f.name for f in asked.plan.outputs}


def _agrees(cell: Any, got: Any, kind: DataType | None, t0: int) -> bool:
    if kind is None:  # a status, or part of an error
        return cell == got or (isinstance(got, str) and isinstance(cell, str) and cell in got)
    return _same(typed(cell, kind, t0), got)


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, str) and expected.startswith("~") and isinstance(got, float):
        return math.isclose(float(expected[1:]), got, rel_tol=1e-9)
    if isinstance(expected, str) and expected.startswith("≈") and isinstance(got, float):
        return math.isclose(float(expected[1:]), got, rel_tol=0.02)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(_same, expected, got))
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(_same(expected[k], got[k]) for k in expected)
    return oracle.same(expected, got)
