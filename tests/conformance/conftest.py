"""Counts what the suite covers, and says so at the end of a run."""

from __future__ import annotations

import pytest
from conformance.tally import TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases met how many modes, and how many values were compared."""
    if TALLY.runs:
        terminalreporter.write_line(f"conformance: {TALLY}")
