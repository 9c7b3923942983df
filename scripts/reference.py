"""Write docs/reference/ from the code: what can be declared, set, called, and what can go wrong.

Run by `make docs`; tests/test_reference.py tells when a page is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reference_called import cli_page, errors_page, http_page, python_page
from reference_declared import aggregations_page, expressions_page, settings_page, specs_page, steps_page

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"


def texts() -> dict[str, str]:
    """Return the pages by their file names."""
    return {
        "expressions.md": expressions_page(),
        "steps.md": steps_page(),
        "aggregations.md": aggregations_page(),
        "specs.md": specs_page(),
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "cli.md": cli_page(),
        "python.md": python_page(),
        "http.md": http_page(),
    }


def main() -> int:
    """Write the pages; return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
