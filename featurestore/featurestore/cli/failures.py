"""How a command fails: what is printed, and the exit status.

| status | |
|---|---|
| 0 | done |
| 1 | the answer is no: an error of the spec, the request or the operation, or a check that did not pass |
| 2 | used wrongly |
| 130, 141 | interrupted; nobody reads the output any more |
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, NoReturn

import typer

from featurestore.cli.values import printable, to_json
from featurestore.errors import FeatureStoreError

NO = 1
USED_WRONGLY = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What Typer raises when it is used wrongly; it has no public name for it."""


def show_error(error: FeatureStoreError, *, json: bool) -> None:
    """Print an error to stderr: the line `error: …` for each mistake, or one JSON object."""
    each = _errors(error)
    if json:
        record = _record(each[0])
        if len(each) > 1:
            record["errors"] = [_record(item) for item in each]
        print(to_json({"error": record}), file=sys.stderr)
        return
    for item in each:
        for place, line in enumerate(str(item).splitlines() or [item.code]):
            print(("error: " if place == 0 else "       ") + printable(line), file=sys.stderr)


def show_os_error(error: OSError, *, json: bool) -> None:
    """Print what the operating system refused."""
    reason = error.strerror or str(error)
    where = None if error.filename is None else str(error.filename)
    show_error(OsFailure(f"{reason}.", where=where), json=json)


class OsFailure(FeatureStoreError):
    """A file, a folder or a port that cannot be used."""

    code = "operating_system"


def show_usage(error: Any, *, json: bool) -> None:
    """Print how a command was used wrongly, and where its help is."""
    message = error.format_message().rstrip(".") + "."
    context = getattr(error, "ctx", None)
    path = "featurestore" if context is None else context.command_path
    hint = f"Run: {path} --help"
    if json:
        print(
            to_json({"error": {"code": "usage", "message": message, "where": None, "hint": hint}}),
            file=sys.stderr,
        )
    else:
        print(f"error: {printable(message)} {hint}", file=sys.stderr)


def end_at_once(status: int) -> NoReturn:
    """Clean up, and end without freeing the interpreter, which threads inside native code can crash."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def silence_stdout() -> None:
    """Let what is still buffered for a reader that went away vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _errors(error: FeatureStoreError) -> list[FeatureStoreError]:
    """Return the errors that one holds (SpecErrors), or itself."""
    return list(getattr(error, "errors", ())) or [error]


def _record(error: FeatureStoreError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint}
