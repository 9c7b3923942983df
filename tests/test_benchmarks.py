"""What the benchmarks say of their figures: which way a ratio goes, and when a target is met."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _load(path: str) -> ModuleType:
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


harness = _load("benchmarks/harness.py")
page = _load("scripts/performance_page.py")


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (harness.at_most(1, "join", 3.0, "s", "SQL", 2.0, 1.5), 1.5, True),
        (harness.at_most(1, "join", 3.1, "s", "SQL", 2.0, 1.5), 1.55, False),
        (harness.at_most(1, "join", 3.0, "s", "SQL", None, 1.5), None, None),
        (harness.at_least(1, "join", 2.0, "s", "SQL", 40.0, 20), 20.0, True),
        (harness.at_least(1, "join", 2.0, "s", "SQL", 39.0, 20), 19.5, False),
        (harness.at_least(6, "stream", 100.0, "events/s", "storey", 4.0, 25), 25.0, True),
        (harness.at_least(6, "stream", 99.0, "events/s", "storey", 4.0, 25), 24.75, False),
        (harness.absolute(7, "freshness", 50.0, "ms", 50.0), None, True),
        (harness.absolute(7, "freshness", 51.0, "ms", 50.0), None, False),
        (harness.absolute(6, "stream", 99.0, "events/s", 100.0), None, False),
    ],
)
def test_a_row_says_whether_its_target_is_met(row: object, ratio: float | None, met: bool | None) -> None:
    assert row.ratio == ratio  # type: ignore[attr-defined]
    assert row.met is met  # type: ignore[attr-defined]


def test_a_measurement_has_a_process_of_its_own() -> None:
    big = harness.isolated("harness_probe:hold", python=Path(sys.executable), size=200_000_000)
    small = harness.isolated("harness_probe:hold", python=Path(sys.executable), size=1)
    assert (big.value, small.value) == (200_000_000, 1)
    assert small.peak_memory < 100_000_000 < 200_000_000 < big.peak_memory


def test_a_failure_shows_what_was_called() -> None:
    with pytest.raises(RuntimeError, match="harness_probe:nothing"):
        harness.isolated("harness_probe:nothing", python=Path(sys.executable))


def test_the_page_has_the_newest_rows_of_each_work_and_a_drawing_of_each_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = {"processor": "p", "cores": 2, "memory": 2**30, "system": "s", "python": "3", "versions": {}}

    def record(began: str, ours: float) -> dict[str, object]:
        row = {"number": 1, "work": "join", "ours": ours, "unit": "s", "reference": "SQL", "theirs": 2.0}
        row |= {"ratio": ours / 2, "target": "<= 1x", "met": ours <= 2, "peak_memory": 2 * 10**9}
        points = [
            {"chart": "Join | rows", "line": "<ours>", "x": x, "y": x * ours, "unit": "s"} for x in (1, 9)
        ]
        return {"began": began, "command": "c", "machine": machine, "rows": [row], "points": points}

    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "CHARTS", tmp_path / "charts")
    (tmp_path / "page.md").write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    for name, content in (("b", record("2026-02", 1.0)), ("a", record("2026-01", 3.0))):
        (tmp_path / f"{name}.json").write_text(page.json.dumps(content))
    page.main([str(tmp_path / "b.json"), str(tmp_path / "a.json")])
    written = (tmp_path / "page.md").read_text()
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "| 1 | join | 1 s | SQL: 2 s | 0.5× | ≤ 1× | met | 2.00 GB |" in written
    assert "old" not in written
    assert "missed" not in written
    [chart] = (tmp_path / "charts").iterdir()
    assert f"(performance/{chart.name})" in written
    assert ElementTree.fromstring(chart.read_text()).findall("{*}polyline")
