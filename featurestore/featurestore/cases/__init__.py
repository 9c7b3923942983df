"""A user's own cases, each on every engine (`featurestore test`).

A case's rows are applied to scratch stores in four ways: as a batch; by the stream engines `local` and
`bytewax`; and half of them as a batch, the rest as a stream. Each time the question is answered twice,
by a training row and by a vector read as of the instant, and both are held to what is expected. Nothing
of the project's own stores is read or written, but the fits that its vectors pin.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.cases.comparison import same
from featurestore.cases.outcome import CaseReport, CaseResult, Mismatch
from featurestore.cases.prepared import Case, CaseRow, prepare
from featurestore.cases.scratch import Scratch, streams
from featurestore.compiler import CompiledProject
from featurestore.contracts import OnlineStore, extension
from featurestore.errors import FeatureStoreError, MissingExtra, UnknownName, did_you_mean
from featurestore.specs import LoadedProject
from featurestore.specs.cases import LoadedTest, parse_tests
from featurestore.specs.problems import Problems

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

__all__ = ["CaseReport", "CaseResult", "Mismatch", "check", "run"]

BATCH = "batch"
Rows = Mapping[str, Sequence[CaseRow]]
Progress = Callable[[int], None]


def check(loaded: LoadedProject, compiled: CompiledProject) -> list[Case]:
    """Return the project's cases, ready to run. Raises SpecErrors with every mistake, with file:line.

    A case of what awaits a fit is left out.
    """
    return _prepared(parse_tests(loaded.tests), compiled, skip_unfitted=True)


def run(
    store: FeatureStore,
    loaded: LoadedProject,
    compiled: CompiledProject,
    names: Sequence[str] = (),
    match: str | None = None,
    *,
    redis: bool = False,
    progress: Progress | None = None,
) -> CaseReport:
    """Run the cases of these names, sets or vectors (default: all) whose names hold `match`; see the module.

    Raises SpecErrors where a case is wrong in itself, UnknownName where nothing has one of the names.
    """
    chosen = _chosen(parse_tests(loaded.tests), names, match)
    report = CaseReport()
    cases = _prepared(chosen, compiled, skip_unfitted=False)
    if not cases:
        return report
    engines = _engines()
    with (
        tempfile.TemporaryDirectory(prefix="featurestore-cases-") as folder,
        _online(store, Path(folder), redis) as online,
    ):
        for case in cases:
            report.cases.append(_run(case, store.root, Path(folder), online, engines))
            if progress is not None:
                progress(1)
    return report


def _prepared(chosen: Sequence[LoadedTest], compiled: CompiledProject, *, skip_unfitted: bool) -> list[Case]:
    problems = Problems()
    cases = []
    for item in chosen:
        if skip_unfitted and (item.test.vector or item.test.set) in compiled.unfitted:
            continue
        with problems.collect():
            cases.append(prepare(item, compiled))
    problems.check()
    return cases


def _chosen(tests: Sequence[LoadedTest], names: Sequence[str], match: str | None) -> list[LoadedTest]:
    known = {item.test.name for item in tests} | {item.test.vector or item.test.set or "" for item in tests}
    for name in names:
        if name not in known:
            raise UnknownName(f"There is no case '{name}', nor one of it.", hint=did_you_mean(name, known))
    wanted = set(names)
    return [
        item
        for item in tests
        if (not wanted or wanted & {item.test.name, item.test.vector, item.test.set})
        and (match is None or match.lower() in item.test.name.lower())
    ]


def _engines() -> list[str]:
    """Return the stream engines that are installed, `local` first."""
    found = []
    for name in sorted(point.name for point in entry_points(group="featurestore.engines")):
        if name != BATCH:
            try:
                extension("engines", name)
            except MissingExtra:
                continue
            found.append(name)
    return sorted(found, key=lambda name: name != "local")


@contextmanager
def _online(store: FeatureStore, folder: Path, redis: bool) -> Iterator[OnlineStore]:
    """Yield an empty online store: SQLite in the folder, or Redis under a prefix that nothing else has."""
    if not redis:
        online: OnlineStore = extension("online", "sqlite")(
            {"kind": "sqlite", "path": str(folder / "online.db")}
        )
        try:
            yield online
        finally:
            online.close()
        return
    kind = extension("online", "redis")
    section = store.environment.config.online
    if section.kind == "redis":
        settings = section.settings()
        prefix = f"{settings.get('prefix', 'fs')}-cases-{secrets.token_hex(6)}"
        online = kind(settings | {"prefix": prefix})
        try:
            yield online
        finally:
            online.close()
        return
    with kind.embedded(folder / "redis") as server:
        online = kind({"kind": "redis", "url": server.url})
        try:
            yield online
        finally:
            online.close()


def _run(case: Case, root: Path, folder: Path, online: OnlineStore, engines: Sequence[str]) -> CaseResult:
    started = time.perf_counter()
    ran: list[str] = []
    mismatches: list[Mismatch] = []
    refused: dict[str, None] = {}
    for way, apply in _ways(case, engines):
        for which, rows in _asked(case):
            prefix = f"case-{secrets.token_hex(6)}"
            scratch = Scratch(case, root, folder / prefix, online, prefix)
            for reading in which:
                ran.append(f"{way} {reading}")
            try:
                apply(scratch, rows)
                for reading in which:
                    mismatches += _read(case, scratch, reading, f"{way} {reading}")
                refused.update(dict.fromkeys(scratch.refused()))
            except FeatureStoreError as error:
                mismatches.append(Mismatch(None, None, str(error), way))
            finally:
                scratch.drop()
    seconds = time.perf_counter() - started
    return CaseResult(
        case.name, case.tested, case.where, tuple(ran), tuple(mismatches), tuple(refused), seconds
    )


Apply = Callable[[Scratch, Rows], None]


def _ways(case: Case, engines: Sequence[str]) -> list[tuple[str, Apply]]:
    """Return the ways in which the case's rows can come."""
    ways: list[tuple[str, Apply]] = [(BATCH, partial(_apply, case, None, 0))]
    if any(streams(case.sources[name], row) for name, rows in case.rows.items() for row in rows):
        ways += [(engine, partial(_apply, case, engine, 1)) for engine in engines]
        ways.append((f"{BATCH}+{engines[0]}", partial(_apply, case, engines[0], 2)))
    return ways


def _apply(case: Case, engine: str | None, step: int, scratch: Scratch, rows: Rows) -> None:
    """Apply every `step`th of the rows that may stream by the engine, after the others as a batch."""
    for name, source in case.sources.items():
        streamed: list[CaseRow] = []
        batch: list[CaseRow] = []
        for place, row in enumerate(rows[name]):
            by_stream = engine is not None and streams(source, row) and place % step == step - 1
            (streamed if by_stream else batch).append(row)
        scratch.ingest(source, batch)
        if streamed and engine is not None:
            scratch.stream(source, streamed, engine)


def _asked(case: Case) -> list[tuple[tuple[str, ...], Rows]]:
    """Return what to read over which rows.

    A vector that was served at t saw what was known at t; the training row of `as_known` has all rows.
    """
    if not case.online:
        return [((OFFLINE,), case.rows)]
    if case.as_known:
        return [((OFFLINE,), case.rows), ((ONLINE,), case.known())]
    return [((OFFLINE, ONLINE), case.rows)]


OFFLINE, ONLINE = "offline", "online"


def _read(case: Case, scratch: Scratch, reading: str, engine: str) -> list[Mismatch]:
    """Return what one reading gave that was not expected."""
    expected: Mapping[str, Any] = case.expected
    if reading == OFFLINE:
        got = scratch.offline()
    else:
        got, error = scratch.online()
        if error is not None:
            return [Mismatch(None, None, error, engine)]
        expected = {name: value for name, value in expected.items() if name != case.label}
    return [
        Mismatch(name, value, got[name], engine)
        for name, value in expected.items()
        if not same(value, got[name], case.tolerance)
    ]
