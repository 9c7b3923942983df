"""Logs of what runs for long: lines for people, or one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass

from featurestore.instants import format_instant

_OURS = "featurestore"
_QUIET_SECONDS = 10.0
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "repeated", "taskName"}


@dataclass(frozen=True)
class LogSettings:
    """How to log: `format` is `text` or `json`, `level` the name of the least level that is shown."""

    format: str = "text"
    level: str = "info"


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        line: dict[str, object] = {
            "time": format_instant(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _OWN}
        if repeated := getattr(record, "repeated", 0):
            line["repeated"] = repeated
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Lines for people: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{moment} {record.levelname.lower()}: {record.getMessage()}"
        if repeated := getattr(record, "repeated", 0):
            text += f" ({repeated} more like it)"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class Sparing(logging.Filter):
    """Lets a warning through once in ten seconds, however often it is given; errors always.

    Warnings are the same where logger and template are. The next one tells how many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be shown."""
        if record.levelno != logging.WARNING:
            return True
        key, now = (record.name, str(record.msg)), time.monotonic()
        shown, left_out = self._last.get(key, (float("-inf"), 0))
        if now - shown < _QUIET_SECONDS:
            self._last[key] = (shown, left_out + 1)
            return False
        self._last[key] = (now, 0)
        record.repeated = left_out
        return True


def configure(settings: LogSettings) -> logging.Handler:
    """Log to stderr from now on, as the settings say; return the handler, for `remove`.

    Of other libraries only warnings and errors are shown.
    """
    handler = _Handler(settings)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(_OURS))
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    return handler


def current() -> LogSettings | None:
    """Return the settings that are in force, for processes that are to log alike."""
    handlers = logging.getLogger().handlers
    return next((handler.settings for handler in handlers if isinstance(handler, _Handler)), None)


def remove(handler: logging.Handler) -> None:
    """Undo `configure`."""
    root = logging.getLogger()
    root.removeHandler(handler)
    root.setLevel(logging.WARNING)


class _Handler(logging.Handler):
    def __init__(self, settings: LogSettings) -> None:
        super().__init__()
        self.settings = settings

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line to what is standard error now: a progress bar may have put its own there.

        It is one write with its end, for several processes may share standard error.
        """
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()
