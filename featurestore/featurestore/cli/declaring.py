"""Verbs that declare: validate, plan, apply, fit, tag."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.application import verb
from featurestore.cli.rows import INSTANT, read_rows
from featurestore.cli.session import Session
from featurestore.errors import OperatorError, RequestError, did_you_mean

if TYPE_CHECKING:
    from featurestore.changes import Change, Changes

_PANEL = "Declare"
_SIGNS = {"created": "+", "changed": "~", "removed": "-", "unchanged": " ", "waiting": "!"}


@verb(_PANEL)
def validate(session: Session) -> None:
    """Check the specs, and say every mistake with its file and line."""
    compiled = session.store.validate()
    if compiled.unfitted:
        with suppress(OperatorError):  # without a registry, nothing is known to be fitted
            compiled = session.store.compiled()
    kinds = ("Entity", "Source", "FeatureSet", "FeatureVector")
    counts = {kind: sum(found == kind for found, _ in compiled.declarations) for kind in kinds}
    if session.console.json:
        waiting = {name: str(error) for name, error in compiled.unfitted.items()}
        session.console.data({"project": compiled.name, "valid": True, "counts": counts, "unfitted": waiting})
    words = ("entities", "sources", "feature sets", "feature vectors")
    told = ", ".join(f"{word} {counts[kind]}" for kind, word in zip(kinds, words, strict=True))
    session.console.say(f"{compiled.name}: {told}; no mistakes")
    for error in compiled.unfitted.values():
        session.console.warn(f"to fit: {error}")


@verb(_PANEL)
def plan(
    session: Session,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where there are changes.")
    ] = False,
) -> None:
    """Show what apply would change, and what would follow from it."""
    changes = session.store.plan()
    _show(session, changes)
    if changes.is_empty:
        session.console.say(_nothing(changes, "Nothing to apply."))
    elif exit_code:
        raise typer.Exit(1)


@verb(_PANEL)
def apply(
    session: Session,
    promote: Annotated[
        bool,
        typer.Option("--promote", help="Fill the new versions beside those that serve; then switch at once."),
    ] = False,
) -> None:
    """Register the specs as new versions, which never change."""
    console = session.console
    if promote:
        with console.progress("fill") as advance:
            changes = session.store.apply(promote=True, progress=advance)
    else:
        changes = session.store.apply()
    if not console.quiet or console.json:
        _show(session, changes, promote)
    for name, inputs in changes.lacking.items():
        console.warn(
            f"{name}: lacks {inputs} inputs that the version before it was given, and its source has no more"
        )
    if changes.filled:
        console.report(("feature set", "rows filled"), list(changes.filled.items()))
    for name in () if promote else changes.unfilled:
        console.warn(
            f"{name} has no online values now. Run: featurestore materialize {name}"
            " (featurestore apply --promote fills new versions before it lets them serve)"
        )
    done = "Promoted." if promote else "Applied."
    nothing = changes.is_empty and not changes.filled
    console.say(_nothing(changes, "Nothing changed.") if nothing else done)


@verb(_PANEL)
def rollback(
    session: Session,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Feature sets or vectors; default, all promoted last."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Go back to the values that materialize replaced.")
    ] = False,
) -> None:
    """Let the previous versions serve again, at once; again, and it goes forward."""
    done = session.store.rollback(names or (), repair=repair)
    if session.console.json:
        session.console.data({"rolled_back": [asdict(item) for item in done]})
    session.console.report(
        ("kind", "name", "before", "now"), [(item.kind, item.name, item.before, item.now) for item in done]
    )


@verb(_PANEL)
def fit(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="SET|VECTOR", help="The feature set or vector.")],
    until: Annotated[
        str | None,
        typer.Option(
            metavar="INSTANT", help=f"Of a set, only rows up to it, of a vector, before it; {INSTANT}."
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SQL",
            help="Of a set, raw rows, not its source's; of a vector, entity rows, not its base's.",
        ),
    ] = None,
) -> None:
    """Compute and store what a set's steps or a vector's imputes take from data; apply pins it."""
    data: Any = None
    if rows is not None and Path(rows).is_file() and name in session.store.compiled(name).unfitted_sets:
        data = Path(rows).resolve()  # read as an ingest reads it
    elif rows is not None:
        data = read_rows(rows, texts=())
    with session.console.progress(f"fit {name}", unit=""):
        fitted = session.store.fit(name, until, data)
    if session.console.json:
        session.console.data(fitted)
    cells = [
        (output, statistic, value) for output, found in fitted.items() for statistic, value in found.items()
    ]
    session.console.report(("of", "statistic", "value"), cells)
    session.console.say("Run: featurestore apply")


@verb(_PANEL)
def tag(
    session: Session,
    reference: Annotated[str, typer.Argument(help="name, name@tag or name@fingerprint.")],
    tag: Annotated[str, typer.Argument(help="The tag to move there, such as prod.")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag instead.")] = False,
    kind: Annotated[
        str | None, typer.Option(help="Entity, Source, FeatureSet or FeatureVector, where names coincide.")
    ] = None,
) -> None:
    """Point a tag at a version, or delete it: what nothing points at is not kept current."""
    name = reference.partition("@")[0]
    known = session.store.list()
    if kind is not None and kind not in known:
        raise typer.BadParameter(f"'{kind}' is no kind. {did_you_mean(kind, known)}", param_hint="--kind")
    kinds = [found for found, names in known.items() if name in names and kind in (None, found)]
    if not kinds:
        names = [item for found, names in known.items() for item in names if kind in (None, found)]
        raise RequestError(f"There is no applied object '{name}'.", hint=did_you_mean(name, names))
    if len(kinds) > 1:
        raise RequestError(f"'{name}' is the name of {' and '.join(kinds)}.", hint=f"Add --kind {kinds[-1]}.")
    if delete:
        if not session.store.untag(kinds[0], name, tag):
            raise RequestError(
                f"{kinds[0]} '{name}' has no tag '{tag}'.", hint=f"See: featurestore show {name}"
            )
        if session.console.json:
            session.console.data({"kind": kinds[0], "name": name, "tag": tag, "fingerprint": None})
        session.console.say(f"{name}@{tag} is no more")
        return
    fingerprint = session.store.tag(kinds[0], reference, tag)
    if session.console.json:
        session.console.data({"kind": kinds[0], "name": name, "tag": tag, "fingerprint": fingerprint})
    session.console.say(f"{name}@{tag} is {fingerprint}")


def _nothing(changes: Changes, text: str) -> str:
    """Return how to say that there is nothing to do, but for what waits for a fit."""
    waiting = [item.name for item in changes if item.action == "waiting"]
    if not waiting:
        return text
    return f"{text[:-1]} until {', '.join(waiting)} {'is' if len(waiting) == 1 else 'are'} fitted."


def _show(session: Session, changes: Changes, promoted: bool = False) -> None:
    if session.console.json:
        told = {"project": changes.project, "changes": [_record(item) for item in changes]}
        filled = {"filled": changes.filled, "lacking": changes.lacking} if promoted else {}
        session.console.data(told | filled)
        return
    for item in changes:
        if item.action == "unchanged":
            continue
        version = "" if item.fingerprint is None else f"@{item.fingerprint}"
        session.console.line(f"{_SIGNS[item.action]} {item.kind} {item.name}{version}  {item.action}")
        for effect in item.effects:
            session.console.line(f"    {effect}")
        if item.estimate is not None:
            size = item.estimate
            session.console.line(
                f"    online: some {size.fixed} bytes per entity, and {size.per_row} per row within reach"
            )


def _record(item: Change) -> dict[str, Any]:
    size = item.estimate
    return {
        "kind": item.kind,
        "name": item.name,
        "action": item.action,
        "fingerprint": item.fingerprint,
        "effects": list(item.effects),
        "bytes_per_entity": None if size is None else {"fixed": size.fixed, "per_row": size.per_row},
    }
