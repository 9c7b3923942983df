"""docs/engines.md is that of the suite, and gaps name what there is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from conformance import gaps
from conformance.cases import cases, topics
from conformance.modes import ALWAYS, MODES, sampled

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_page_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = importlib.import_module("engines_page")
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "run: make docs"


def test_a_gap_names_a_trait_and_a_case_that_there_are() -> None:
    traits = frozenset().union(*(mode.traits for mode in MODES))
    known = {*topics(), *(case.id for case in cases())}
    for gap in gaps.GAPS:
        assert gap.trait in traits
        assert gap.case in known
        assert gap.reason


def test_a_gap_is_of_its_trait_and_its_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "GAPS", (gaps.Gap("redis", "windows", "why"),))
    assert gaps.reason(frozenset({"redis"}), "windows", "windows/one") == "why"
    assert gaps.reason(frozenset({"sqlite"}), "windows", "windows/one") is None
    assert gaps.reason(frozenset({"redis"}), "keys", "keys/one") is None


def test_sampling_meets_every_mode_often_and_each_case_in_the_modes_of_always() -> None:
    met = [sampled(number) for number in range(len(cases()))]
    assert all({mode.name for mode in ALWAYS} <= names for names in met)
    for mode in MODES:
        assert sum(mode.name in names for names in met) >= len(met) // len(MODES)
