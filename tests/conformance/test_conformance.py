"""Every case gives its table in every mode, however its rows arrive and whoever computes the answers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from conformance import gaps
from conformance.arriving import Arrival, rows_of
from conformance.asking import ASK, Asked, check, judged
from conformance.cases import Case, cases
from conformance.modes import MODES, READINGS, Mode, sampled
from conformance.projects import Project
from conformance.tally import TALLY

from featurestore import FeatureStore
from featurestore.contracts import extension
from featurestore.errors import MissingExtra
from featurestore.online import tree


def _parameters() -> list[Any]:
    """Return each case in each mode; those that sampling leaves out are slow."""
    made = []
    for number, case in enumerate(cases()):
        chosen = sampled(number)
        for mode in MODES:
            if case.skip & mode.traits:
                continue
            marks: list[Any] = [] if mode.name in chosen else [pytest.mark.slow]
            if mode.online == "redis":
                marks.append(pytest.mark.redis)
            reason = gaps.reason(mode.traits, case.topic, case.id)
            if reason is not None:
                marks.append(pytest.mark.xfail(strict=True, reason=reason))
            made.append(pytest.param(case, mode, id=f"{case.id}[{mode.name}]", marks=marks))
    return made


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """Returns the project of these specs and this kind of online store, made once."""

    @functools.cache
    def project(specs: str, online: str) -> Project:
        root = tmp_path_factory.mktemp("conformance")
        settings = {"kind": online}
        if online == "redis":
            settings |= {"url": request.getfixturevalue("redis_url"), "prefix": root.name}
        return Project(root, specs, settings)

    return project


@pytest.mark.parametrize(("case", "mode"), _parameters())
def test_case(
    case: Case, mode: Mode, projects: Callable[[str, str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode.deep:
        monkeypatch.setattr(tree, "LEAF_ROWS", 1)
    if mode.engine not in ("local", "oracle"):
        try:
            extension("engines", mode.engine)
        except MissingExtra as error:
            pytest.skip(str(error))
    project = projects(case.specs, "sqlite" if mode.is_oracle else mode.online)
    compared = 0
    with project.fresh() as store:
        reference: Any = case.vector or _only_vector(store)
        plan = store.vector(reference).plan
        if mode.is_oracle:
            logs = {name: rows_of(case, store.catalog.source(name)) for name in case.rows}
        else:
            Arrival(store, case, mode).run()
        for reading in READINGS:
            if case.only and reading not in case.only:
                continue
            expected = case.known if reading == "as_known" else case.expect
            asked = Asked(case, plan, expected)
            if mode.is_oracle:
                answers = judged(asked, logs, as_known=reading == "as_known")
            else:
                answers = ASK[reading](store, asked, reference)
            compared += check(asked, expected, answers, f"{reading} in mode {mode.name}")
        if case.rejected and not mode.is_oracle:
            assert _rejected(store) == case.rejected
    TALLY.add(case.id, mode.name, compared)


def _only_vector(store: FeatureStore) -> Any:
    names = store.catalog.names("FeatureVector")
    if names:
        [name] = names
        return name
    return [f"{name}.*" for name in store.catalog.names("FeatureSet")]


def _rejected(store: FeatureStore) -> set[str]:
    table = store.environment.offline.table("dead_letters")
    snapshot = table.snapshot()
    if snapshot is None:
        return set()
    return set(table.lazy(snapshot).collect()["code"].to_list())
