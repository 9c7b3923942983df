"""`main`, where the command line begins and ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from featurestore.cli import (  # noqa: F401 - each registers its verbs
    declaring,
    failures,
    filling,
    keeping,
    looking,
    reading,
    serving,
    starting,
    streaming,
    testing,
    verifying,
)
from featurestore.cli.application import ReaderGone, app
from featurestore.cli.session import Session
from featurestore.errors import FeatureStoreError

_VERBS = (
    *("init", "validate", "test", "plan", "apply", "rollback", "fit", "tag"),
    *("ingest", "materialize", "compact", "upkeep", "preview"),
    *("stream", "accept-topic", "push", "serve"),
    *("get-offline", "get-online", "verify"),
    *("status", "list", "show"),
)
"""All verbs, in the order of the help."""

app.registered_commands.sort(key=lambda command: _VERBS.index(command.name or ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit status; see `failures`."""
    status = _run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None and status == failures.INTERRUPTED:
        failures.end_at_once(status)
    return status


def _run(given: list[str]) -> int:
    session = Session()
    try:
        status = app(args=given, prog_name="featurestore", standalone_mode=False, obj=session)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except FeatureStoreError as error:
        failures.show_error(error, json=session.console.json)
        return failures.NO
    except failures.UsageError as error:
        failures.show_usage(error, json="--json" in given)
        return failures.USED_WRONGLY
    except (KeyboardInterrupt, typer.Abort):  # Typer makes a status of most
        return failures.INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        failures.silence_stdout()
        return failures.BROKEN_PIPE
    except OSError as error:
        failures.show_os_error(error, json=session.console.json)
        return failures.NO
