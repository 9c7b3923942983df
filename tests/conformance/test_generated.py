"""Generated cases agree with the oracle; what is broken is found, made small, and found by its number."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import generate

from featurestore.online.view import EntityView


def test_some_hundred_cases_agree() -> None:
    done, block, differences = generate.run(7, 0, 400, lambda _: None)
    assert block is None
    assert not differences
    assert done.cases == 400
    assert done.values > 10_000


def test_a_window_edge_that_is_off_by_a_microsecond_is_found_with_few_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = EntityView.segments
    monkeypatch.setattr(EntityView, "segments", lambda self, low, high: honest(self, low - 1, high))
    assert generate.main(["--cases", "400", "--seed", "9"]) == 1
    said = capsys.readouterr().out
    assert said.count("  row {") <= 2
    assert "the oracle says" in said
    number = said.rpartition("--case ")[2].strip()
    assert generate.main(["--seed", "9", "--case", number]) == 1
    monkeypatch.setattr(EntityView, "segments", honest)
    assert generate.main(["--seed", "9", "--case", number]) == 0


def test_a_report_stands_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{generate.BEGIN}\nold\n{generate.END}\nafter\n")
    assert generate.main(["--cases", "40", "--seed", "2", "--report", str(page)]) == 0
    said = page.read_text()
    assert said.startswith(f"before\n{generate.BEGIN}\n")
    assert said.endswith(f"{generate.END}\nafter\n")
    assert "old" not in said
    assert "| cases | 40 |" in said
    assert "| **counterexamples** | **0** |" in said
