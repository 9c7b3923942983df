"""`main`, where the command line begins and ends."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

import typer

from featurestore.cli import failures
from featurestore.cli.application import ReaderGone, app
from featurestore.cli.session import Session
from featurestore.errors import FeatureStoreError

_MODULES = {
    "init": "starting",
    "validate": "declaring",
    "test": "testing",
    **dict.fromkeys(("plan", "apply", "rollback", "fit", "tag"), "declaring"),
    **dict.fromkeys(("ingest", "materialize", "compact"), "filling"),
    "upkeep": "keeping",
    "preview": "filling",
    **dict.fromkeys(("stream", "accept-topic", "push"), "streaming"),
    "serve": "serving",
    **dict.fromkeys(("get-offline", "get-online"), "reading"),
    "verify": "verifying",
    **dict.fromkeys(("status", "list", "show"), "looking"),
    "dead-letters": "keeping",
}
"""Every verb in the order of the help, and the module that it is in."""


def command_line(words: Iterable[str] = ()) -> typer.Typer:
    """Return the application with the verbs that `words` name; where they name none, with all.

    A verb is registered as its module is imported. All of them take 20 ms, which a single one need not.
    """
    for word in [word for word in words if word in _MODULES] or _MODULES:
        import_module(f"featurestore.cli.{_MODULES[word]}")
    places = {verb: place for place, verb in enumerate(_MODULES)}
    app.registered_commands.sort(key=lambda command: places.get(command.name or "", len(places)))
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit status; see `failures`."""
    status = _run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None and status == failures.INTERRUPTED:
        failures.end_at_once(status)
    return status


def _run(given: list[str]) -> int:
    session = Session()
    try:
        status = command_line(given)(args=given, prog_name="featurestore", standalone_mode=False, obj=session)
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
