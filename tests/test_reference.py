"""The reference pages are those of the code, and what is written into them by hand holds."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NAMES = ["aggregations", "cli", "errors", "expressions", "http", "python", "settings", "specs", "steps"]


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    found: dict[str, str] = importlib.import_module("reference").texts()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_page_is_fresh(name: str, texts: dict[str, str]) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text == texts[f"{name}.md"], "run: make docs"


def test_there_are_no_other_pages(texts: dict[str, str]) -> None:
    pages = sorted(path.name for path in FOLDER.iterdir())
    assert pages == sorted(texts) == [f"{name}.md" for name in NAMES]


def test_every_reason_of_a_dead_letter_is_one_that_the_code_gives() -> None:
    script = importlib.import_module("reference_called")
    core = ROOT / "featurestore" / "featurestore"
    code = "".join(
        path.read_text(encoding="utf-8")
        for part in ("rows", "steps", "expressions")
        for path in (core / part).rglob("*.py")
    )
    assert [name for name in script.REASONS if f'"{name}' not in code and f'f"{name}: ' not in code] == []
