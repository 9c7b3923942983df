"""Laws of the whole line on any log: what is applied, in which order and by which half, decides no value.

Every function that there is, several windows and columns together. Hypothesis shrinks a log that breaks a
law to the fewest rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import oracle
import polars as pl
import pytest
from conformance import drawing
from conformance.arriving import Row, frame
from conformance.asking import natural_rows
from conformance.comparison import facts_of
from conformance.memory import MemoryOnline, MemoryTable
from hypothesis import given
from hypothesis import strategies as st
from parity import examples
from strategies import HOUR, ORIGIN, queries, schedules, source_log

from featurestore.compiler import CompiledProject
from featurestore.online import tree
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter
from featurestore_engines.batch.training import Options, training_set

NOW = ORIGIN + 1000 * 24 * HOUR
COLUMNS = ("x", "n", "kind")
AT = "__asked"


def _project(**source: Any) -> CompiledProject:
    """Return a project with every function over a float, a whole number and text."""
    aggregations: list[Mapping[str, Any]] = [
        {"functions": ["count"], "windows": ["1h"], "where": "x > 5", "closed": "left"},
        {"column": "n", "functions": ["sum"], "windows": ["2h"], "granularity": "7m", "name": "coarse"},
        {"column": "x", "functions": ["sum"], "windows": ["1h"], "offset": "1h", "name": "shifted"},
        {"by": "kind", "values": ["a", "b"], "functions": ["count"], "windows": ["2h"]},
    ]
    for column in COLUMNS:
        for function in drawing.functions(column):
            told = drawing.parameter(Random(0), function)
            aggregations.append({"column": column, "functions": [function], "windows": ["1h", "2h"], **told})
    made = {"history": "all", "ttl": "2h", "aggregations": aggregations}
    return drawing.project(drawing.documents(COLUMNS, {"event_id": "id", **source}, made))


PROJECTS = {
    "first": _project(),
    "replace": _project(on_duplicate="replace"),
    "order-by": _project(order_by="rank"),
    "deleted": _project(deleted="n = 7"),
}


@pytest.fixture(params=PROJECTS)
def project(request: pytest.FixtureRequest) -> CompiledProject:
    """A project for each rule of identity."""
    return PROJECTS[request.param]


@st.composite
def logs(draw: st.DrawFn, project: CompiledProject) -> list[Row]:
    """Return a log of the project's source, of two entities: ties, late rows, ids that come again."""
    ranks = {"rank": st.sampled_from([None, 0, 1]), "n": st.sampled_from([None, 0, 1, 7, 2**62, -(2**63)])}
    log: list[Row] = draw(source_log(project.sets["made"], keys=2, max_rows=12, given=ranks))
    return log


def applied(
    project: CompiledProject, parts: Sequence[Sequence[Row]], partitions: Sequence[str]
) -> MemoryOnline:
    """Return a store to which parts of a log were applied, one after another, each from its partition."""
    store, plan = MemoryOnline(), project.sets["made"]
    writer = OnlineWriter(plan, store, "g", clock=lambda: NOW)  # type: ignore[arg-type]
    ends: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "LEAF_ROWS", 2)
        for rows, partition in zip(parts, partitions, strict=True):
            start = ends.get(partition, 0)
            made = facts_of(plan, frame(plan.source, rows), partition, start, NOW)
            ends[partition] = start + len(rows)
            writer.apply(made)
    return store


def served(
    project: CompiledProject, store: MemoryOnline, asked: Sequence[tuple[str, int]]
) -> list[list[Any]]:
    """Return the vectors of (customer, instant)."""
    reader = VectorReader(project.vectors["asked"], store, lambda _: "g", clock=lambda: NOW)  # type: ignore[arg-type]
    result = reader.read([{"customer": key} for key, _ in asked], as_of=[t for _, t in asked])
    assert not any(result.errors)
    return result.rows


def trained(
    project: CompiledProject, log: Sequence[Row], asked: Sequence[tuple[str, int]], *, as_known: bool = False
) -> list[list[Any]]:
    """Return the training rows of (customer, instant)."""
    plan = project.sets["made"]
    table: Any = MemoryTable(facts_of(plan, frame(plan.source, log), "p", 0, NOW))
    rows = pl.DataFrame({"customer": [key for key, _ in asked]}, schema={"customer": pl.String})
    at = pl.Series(AT, [t for _, t in asked], pl.Int64).cast(pl.Datetime("us", "UTC"))
    vector = project.vectors["asked"]
    made = training_set(vector, lambda _: table, rows.with_columns(at), Options(AT, as_known))
    return [list(row.values()) for row in natural_rows(made.to_polars().select(made.features))]


@st.composite
def questions(draw: st.DrawFn, project: CompiledProject, log: Sequence[Row]) -> list[tuple[str, int]]:
    """Return customers and instants, where something changes."""
    times = draw(queries(project.sets["made"], [row[name] for row in log for name in ("at", "seen")]))
    return [(draw(st.sampled_from(["a", "b", "nobody"])), t) for t in times]


def equal(one: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]]) -> bool:
    """Return whether all values are the same: NaN is NaN, null is null."""
    return all(oracle.same([*a], [*b]) for a, b in zip(one, other, strict=True))


@given(data=st.data())
@examples(8)
def test_batch_then_stream_is_all_batch_is_all_stream(project: CompiledProject, data: st.DataObject) -> None:
    """To the byte; whichever half has which copy of an id, and however often."""
    log = data.draw(logs(project))
    cut = data.draw(st.integers(0, len(log)))
    overlap = data.draw(st.integers(0, cut))
    whole = applied(project, [log], ["batch"]).fields
    assert applied(project, [data.draw(schedules(log))], ["stream"]).fields == whole
    assert applied(project, [log[:cut], log[overlap:]], ["batch", "stream"]).fields == whole
    assert applied(project, [log[cut:], log[:cut]], ["stream", "batch"]).fields == whole


@given(data=st.data())
@examples(8)
def test_rows_of_later_never_change_an_answer(project: CompiledProject, data: st.DataObject) -> None:
    """What happens after t, and for `as_known` what is known after t, is as if it were not there."""
    log = data.draw(logs(project))
    asked = data.draw(questions(project, log))[:3]
    store = applied(project, [log], ["p"])
    for key, t in asked:
        past = [row for row in log if row["at"] <= t]
        known = [row for row in past if row["seen"] <= t]
        assert equal(
            served(project, store, [(key, t)]), served(project, applied(project, [past], ["p"]), [(key, t)])
        )
        assert equal(trained(project, log, [(key, t)]), trained(project, past, [(key, t)]))
        one = trained(project, log, [(key, t)], as_known=True)
        assert equal(one, trained(project, known, [(key, t)], as_known=True))
        assert equal(one, trained(project, known, [(key, t)]))


@given(data=st.data())
@examples(12)
def test_a_vector_served_at_t_is_the_training_row_stamped_t(
    project: CompiledProject, data: st.DataObject
) -> None:
    """Within what a sum may deviate; and what was served at the time is the row with `as_known`."""
    log = data.draw(logs(project))
    asked = data.draw(questions(project, log))
    near(project, trained(project, log, asked), served(project, applied(project, [log], ["p"]), asked), log)
    for key, t in asked[:2]:
        known = [row for row in log if row["seen"] <= t]
        then = served(project, applied(project, [known], ["p"]), [(key, t)])
        near(project, trained(project, log, [(key, t)], as_known=True), then, log)


def near(
    project: CompiledProject, one: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]], log: Sequence[Row]
) -> None:
    """Fail unless values are the same: whole numbers and text exactly, floats within the sum's tolerance."""
    names = [f.name for f in project.vectors["asked"].outputs]
    finite = [abs(row["x"]) for row in log if row["x"] is not None and abs(row["x"]) < 1e300]
    magnitude = sum(finite) or 1.0
    for a, b in zip(one, other, strict=True):
        for name, first, second in zip(names, a, b, strict=True):
            if oracle.same(first, second):
                continue
            assert {type(first), type(second)} == {float}, (name, first, second)
            linear = any(word in name for word in ("_sum_", "_avg_", "_decay_"))
            allowed = 2e-15 * magnitude if linear else 2e-9 * max(abs(first), magnitude**2)
            assert abs(first - second) <= allowed, (name, first, second)
