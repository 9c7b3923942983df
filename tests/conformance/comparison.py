"""One generated block: a feature set, logs of many cases, and all answers compared with the oracle's.

Rows go through the door and the steps; offline they are a table that training sets are made of, online they
are applied in micro-batches, in any order, by the writer, and read by the reader; only the stores' bytes are
kept in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import oracle
import polars as pl
from conformance import drawing
from conformance.arriving import Row, frame
from conformance.asking import natural_rows
from conformance.drawing import Case
from conformance.judge import Judge
from conformance.memory import MemoryOnline, MemoryTable

from featurestore.compiler import CompiledProject
from featurestore.instants import DAY
from featurestore.online import tree
from featurestore.online.reader import VectorReader
from featurestore.online.requests import outward
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan, VectorPlan
from featurestore.rows.door import admit
from featurestore.rows.transform import transform
from featurestore_engines.batch.training import Options, training_set

CASES = 40
"""How many cases share a feature set."""
_AT = "__asked"
_LEAF_ROWS = (1, 1, 2, 3, 512)


@dataclass(frozen=True)
class Difference:
    """An answer that is not the oracle's."""

    case: int
    reading: str
    asked: Any
    feature: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"{self.reading}, {self.asked}: {self.feature} is {self.got!r}, the oracle says {self.expected!r}"
        )


@dataclass(frozen=True)
class Block:
    """Documents, cases, and how their rows reach the online store."""

    documents: list[dict[str, Any]]
    cases: tuple[Case, ...]
    leaf_rows: int
    arrival: int  # the seed of order and micro-batches

    @staticmethod
    def draw(seed: int, number: int) -> Block:
        """Return the block of that number of a run."""
        rng = Random(f"{seed}/{number}")
        documents = drawing.feature_set(rng)
        plan = drawing.project(documents).sets["made"]
        columns = [f.name for f in plan.source.schema if f.name in drawing.COLUMNS]
        spans = _spans(plan)
        cases = tuple(
            drawing.log(rng, columns, spans, f"{case}/", ids=bool(plan.source.event_id))
            for case in range(CASES)
        )
        return Block(documents, cases, rng.choice(_LEAF_ROWS), rng.randrange(2**32))

    def check(self) -> tuple[list[Difference], int]:
        """Return what differs, and how many values were compared."""
        made = _Check(self, drawing.project(self.documents))
        made.entities()
        made.base_rows()
        made.order()
        return made.differences, made.compared

    def only(self, case: int) -> Block:
        """Return the block with one case's rows and questions; the others have neither."""
        none = Case((), (), ())
        return replace(self, cases=tuple(c if n == case else none for n, c in enumerate(self.cases)))


def _spans(plan: SetPlan) -> list[int]:
    found = {plan.ttl or 0}
    for column in plan.aggregates:
        window = column.window
        width = window.width or DAY
        found |= {width, window.offset, width + window.offset, window.granularity or 0}
    return sorted(found - {0})


def facts_of(plan: SetPlan, rows: pl.DataFrame, partition: str, start: int, now: int) -> pl.DataFrame:
    """Return raw rows as the set's table holds them: through the door and the steps, from this position."""
    numbered = rows.with_columns(
        (pl.int_range(pl.len(), dtype=pl.Int64) + start).alias("__sequence"),
        pl.lit(partition).alias("__partition"),
    )
    admitted = admit(plan.source, numbered, now=now)
    assert not admitted.rejected.height, admitted.rejected
    return transform(plan, admitted.rows).rows


class _Check:
    def __init__(self, block: Block, compiled: CompiledProject) -> None:
        self.differences: list[Difference] = []
        self.compared = 0
        self._block = block
        self._plan = compiled.sets["made"]
        self._asked, self._scored = compiled.vectors["asked"], compiled.vectors.get("scored")
        self._logs = [case.rows for case in block.cases]
        everything = [row for log in self._logs for row in log]
        self._now = max((row[name] for row in everything for name in ("at", "seen")), default=0) + DAY
        self._facts = facts_of(self._plan, frame(self._plan.source, everything), "p", 0, self._now)
        rng = Random(block.arrival)
        self._store = self._applied(rng)
        self._judges = [Judge(self._asked, {"rows": log}) for log in self._logs]

    def _applied(self, rng: Random) -> MemoryOnline:
        """Return a store with all rows applied: in any order, some again where the source has ids."""
        store = MemoryOnline()
        writer = OnlineWriter(self._plan, store, "g", clock=lambda: self._now)  # type: ignore[arg-type]
        order = list(range(self._facts.height))
        if self._plan.source.event_id and order:
            order += rng.choices(order, k=len(order) // 4)
        rng.shuffle(order)
        rows = self._facts[order].with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("__sequence"))
        pieces = rng.choice((1, 1, 2, 3))
        size = max(1, -(-len(order) // pieces))
        honest = tree.LEAF_ROWS
        tree.LEAF_ROWS = self._block.leaf_rows
        try:
            for start in range(0, len(order), size):
                writer.apply(rows[start : start + size])
        finally:
            tree.LEAF_ROWS = honest
        return store

    def entities(self) -> None:
        """Compare answers to (entity, instant): the vector, and the training rows, as known and not."""
        asked = [(n, key, t) for n, case in enumerate(self._block.cases) for key, t in case.asked]
        if not asked:
            return
        rows = pl.DataFrame({"customer": [key for _, key, _ in asked]}, schema={"customer": pl.String})
        at = pl.Series(_AT, [t for _, _, t in asked], pl.Int64).cast(pl.Datetime("us", "UTC"))
        questions = [({"customer": key}, t) for _, key, t in asked]
        numbers = [n for n, _, _ in asked]
        now = [
            self._judges[n].cells(row, t, as_known=False)
            for n, (row, t) in zip(numbers, questions, strict=True)
        ]
        known = [
            self._judges[n].cells(row, t, as_known=True)
            for n, (row, t) in zip(numbers, questions, strict=True)
        ]
        reader = self._reader(self._asked)
        served = reader.read([row for row, _ in questions], as_of=[t for _, t in questions])
        self._compare("online", numbers, questions, now, _named(served, self._plan, self._now))
        for reading, expected, as_known in (("offline", now, False), ("as known", known, True)):
            got = self._training(self._asked, rows.with_columns(at), Options(_AT, as_known))
            self._compare(reading, numbers, questions, expected, got)

    def base_rows(self) -> None:
        """Compare answers to whole rows: those that have arrived, others of their id, and new ones."""
        asked = [(n, row) for n, case in enumerate(self._block.cases) for row in case.bases]
        scored = self._scored
        if not asked or scored is None:
            return
        numbers = [n for n, _ in asked]
        questions = [(row, row["at"]) for _, row in asked]
        judges = [Judge(scored, {"rows": log}) for log in self._logs]
        kinds = {f.name: f.type for f in self._plan.source.schema}
        requests = [{name: outward(row[name], kind) for name, kind in kinds.items()} for _, row in asked]
        served = _named(self._reader(scored).read(requests), self._plan, self._now)
        now = [judges[n].cells(row, row["at"], as_known=False) for n, row in asked]
        filtered = [name for name, answer in enumerate(served) if answer is not None and "error" in answer]
        for number in filtered:
            served[number] = dict.fromkeys(now[number])
        self._compare("online base", numbers, questions, now, served)
        rows = frame(self._plan.source, [row for _, row in asked])
        for as_known in (False, True):
            expected = now if not as_known else [judges[n].cells(r, r["at"], as_known=True) for n, r in asked]
            got = self._training(scored, rows, Options(_AT, as_known))
            name = "offline base, as known" if as_known else "offline base"
            whole = [None if n in filtered else answer for n, answer in enumerate(got)]
            self._compare(name, numbers, questions, expected, whole)

    def order(self) -> None:
        """Compare the online state's bytes with those of the same rows in another order."""
        if self._plan.history is not None or self._block.arrival % 3:
            return  # what was pruned when depends on what had come; the rest is for time
        other = self._applied(Random(self._block.arrival + 1))
        if other.fields != self._store.fields:
            keys = [key for key in other.fields if other.fields[key] != self._store.fields.get(key)]
            case = next(
                n for n in range(len(self._block.cases)) if any(f"{n}/".encode() in k for _, k in keys)
            )
            self.differences.append(Difference(case, "order of application", keys, "state", "equal", "not"))
        self.compared += len(other.fields)

    def _reader(self, plan: VectorPlan) -> VectorReader:
        return VectorReader(plan, self._store, lambda _: "g", clock=lambda: self._now)  # type: ignore[arg-type]

    def _training(self, plan: VectorPlan, rows: pl.DataFrame, options: Options) -> list[Row | None]:
        made = training_set(plan, lambda _: MemoryTable(self._facts), rows, options)  # type: ignore[arg-type,return-value]
        return [*natural_rows(made.to_polars().select(made.features))]

    def _compare(
        self,
        reading: str,
        numbers: Sequence[int],
        questions: Sequence[tuple[Row, int]],
        expected: Sequence[dict[str, oracle.Cell]],
        got: Sequence[Row | None],
    ) -> None:
        for number, question, cells, answer in zip(numbers, questions, expected, got, strict=True):
            if answer is None:
                continue
            self.compared += len(cells)
            for name, cell in cells.items():
                if not cell.agrees(answer[name]):
                    self.differences.append(
                        Difference(number, reading, question, name, cell.value, answer[name])
                    )


def _named(result: Any, plan: SetPlan, now: int) -> list[Row | None]:
    """Return answers by name; None where the instant lies outside the history, or has not come."""
    names = [f.name for f in result.columns]
    answers: list[Row | None] = []
    for values, t, error in zip(result.rows, result.as_of, result.errors, strict=True):
        outside = t > now or (plan.history is not None and t < now - plan.history)
        if error is not None and "leaves the row out" in error:
            answers.append({"error": error})
        elif error is not None and outside:
            answers.append(None)
        else:
            answers.append(dict(zip(names, values, strict=True)) if error is None else {"error": error})
    return answers
