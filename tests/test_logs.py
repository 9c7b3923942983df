"""Logs of what runs for long: a JSON object per line, and warnings that do not flood."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from featurestore import logs
from featurestore.logs import LogSettings

Err = pytest.CaptureFixture[str]


@pytest.fixture
def log(request: pytest.FixtureRequest, capsys: Err) -> Iterator[logging.Logger]:
    """A logger of ours, configured as the test's parameter says, with its output captured."""
    assert capsys
    handler = logs.configure(request.param)
    yield logging.getLogger("featurestore.test")
    logs.remove(handler)


@pytest.mark.parametrize("log", [LogSettings("json", "debug")], indirect=True)
def test_a_line_of_json_has_its_fields(log: logging.Logger, capsys: Err) -> None:
    assert logs.current() == LogSettings("json", "debug")
    log.debug("read %d", 3, extra={"source": "payments"})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed\nbadly")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "debug",
        "logger": "featurestore.test",
        "message": "read 3",
        "source": "payments",
    }
    assert second["message"] == "failed\nbadly"
    assert second["exception"].splitlines()[-1] == "ValueError: no"


@pytest.mark.parametrize("log", [LogSettings()], indirect=True)
def test_text_hides_what_is_below_its_level(log: logging.Logger, capsys: Err) -> None:
    log.debug("no")
    log.info("yes")
    assert capsys.readouterr().err.split(" ", 1)[1] == "info: yes\n"


@pytest.mark.parametrize("log", [LogSettings()], indirect=True)
def test_a_warning_that_repeats_is_told_once_and_how_often(
    log: logging.Logger, capsys: Err, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for number in range(5):
        log.warning("lost race %d", number)
        log.error("each")
    log.warning("another")
    now += 11
    log.warning("lost race %d", 9)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "warning: lost race 0",
        *["error: each"] * 5,
        "warning: another",
        "warning: lost race 9 (4 more like it)",
    ]


def test_what_was_configured_is_undone(capsys: Err) -> None:
    before = logging.getLogger().handlers.copy()
    logs.remove(logs.configure(LogSettings()))
    assert logs.current() is None
    assert logging.getLogger().handlers == before
