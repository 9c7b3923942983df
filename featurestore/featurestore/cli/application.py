"""The Typer application, and how functions become verbs of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from featurestore import __version__
from featurestore.cli.session import Session


class ReaderGone(Exception):
    """The reader of the output is gone, as `head` is when it has read enough."""


PANEL = "Common options"

Project = Annotated[
    Path | None,
    typer.Option(
        "--project",
        "-C",
        metavar="DIR",
        help="The project's folder; default, this one.",
        rich_help_panel=PANEL,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="A profile of featurestore.yaml; default, $FEATURESTORE_PROFILE.",
        rich_help_panel=PANEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.", rich_help_panel=PANEL)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results and errors only.", rich_help_panel=PANEL)
]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]

app = typer.Typer(
    name="featurestore",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _start(
    context: typer.Context,
    project: Project = None,
    profile: Profile = None,
    json: Json = False,
    quiet: Quiet = False,
    version: Version = False,
) -> None:
    """A declarative feature store: one definition, the same value offline and online at every instant."""
    session: Session = context.obj
    session.choose(project, profile, json, quiet)
    if version:
        if session.console.json:
            session.console.data({"version": __version__})
        session.console.line(f"featurestore {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def group(panel: str, name: str, about: str) -> typer.Typer:
    """Return the verb `name` that has verbs of its own, for `verb(…, of=…)`."""
    made = typer.Typer(name=name, help=about)
    app.add_typer(made, rich_help_panel=panel)
    return made


def verb(
    panel: str, name: str | None = None, *, of: typer.Typer = app
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a function, whose first parameter is the Session, a verb (of a group).

    The verb takes the function's other parameters, and the common options, which may so be given before or
    after it. The project is closed when the function is done.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        def run(context: typer.Context, **given: Any) -> None:
            session: Session = context.obj
            session.choose(*(given.pop(each) for each in _COMMON))
            try:
                function(session, **given)
            except BrokenPipeError:  # which Typer would answer with the status 1
                raise ReaderGone from None
            finally:
                session.close()

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(p.replace(kind=keyword, annotation=hints[p.name]) for p in own),
            *(inspect.Parameter(n, keyword, default=d, annotation=a) for n, (d, a) in _COMMON.items()),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        of.command(name or function.__name__, rich_help_panel=panel if of is app else None)(run)
        return function

    return register


_COMMON: dict[str, tuple[Any, Any]] = {
    "project": (None, Project),
    "profile": (None, Profile),
    "json": (False, Json),
    "quiet": (False, Quiet),
}
