"""Verbs that keep the stores in order: upkeep, dead-letters list, dead-letters replay."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from featurestore.cli.application import group, verb
from featurestore.cli.session import Session
from featurestore.errors import RequestError

_PANEL = "Fill"
_TEXT = 60  # characters of a letter's bytes in a table

dead_letters = group("Look", "dead-letters", "See what was refused and why, and send it again.")

Source = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Of this source.")]
Set = Annotated[
    str | None, typer.Option("--set", metavar="NAME", help="Refused by a step of this feature set.")
]
Code = Annotated[str | None, typer.Option("--code", metavar="CODE", help="For this reason, as bad_type.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="INSTANT", help="With an ingest time from this on.")
]


@verb(_PANEL)
def upkeep(session: Session) -> None:
    """Do once what streams do beside their work: retention, compaction, deletion of what nothing needs."""
    with session.console.progress("upkeep", unit=""):
        records = session.store.upkeep()
    if session.console.json:
        session.console.data({"upkeep": records})
    names = ("rows_forgotten", "files_compacted", "files_deleted", "generations_dropped")
    session.console.report(
        ("table", *(name.replace("_", " ") for name in names)),
        [(record["table"], *(record.get(name, 0) for name in names)) for record in records],
    )
    failed = [record for record in records if record["error"]]
    for record in failed:
        session.console.warn(f"{record['table']}: {record['error']}")
    if failed:
        raise typer.Exit(1)


@verb("Look", "list", of=dead_letters)
def list_letters(
    session: Session,
    source: Source = None,
    feature_set: Set = None,
    code: Code = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="How many letters, the newest first.")] = 20,
    summary: Annotated[bool, typer.Option("--summary", help="The numbers by source, set and code.")] = False,
) -> None:
    """List dead letters, the newest first, or count them."""
    store, console = session.store, session.console
    if summary:
        found = store.count_dead_letters(source, feature_set, code, _instant(since))
        if console.json:
            console.data({"dead_letters": found})
        names = ["source", "feature_set", "code", "rows", "replayed", "first", "newest"]
    else:
        found = store.dead_letters(source, feature_set, code, _instant(since), limit)
        if console.json:
            console.data({"dead_letters": found})
        names = ["id", "time", "source", "feature_set", "code", "message", "partition", "sequence"]
        found = [letter | {"text": _short(letter)} for letter in found]
        names += ["replayed", "text"]
    if not found:
        console.say("No dead letters, or none of those chosen.")
        return
    heads = [name.replace("_", " ") for name in names]
    console.table(heads, [tuple(row[name] for name in names) for row in found], absent="-")


@verb("Look", of=dead_letters)
def replay(
    session: Session,
    source: Source = None,
    feature_set: Set = None,
    code: Code = None,
    since: Since = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="This letter; may be given again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; tell what would be.")] = False,
) -> None:
    """Send letters again that the source, as it is applied now, admits; each once."""
    console = session.console
    with console.progress("replay", unit=""):
        report = session.store.replay(source, feature_set, code, _instant(since), ids or (), dry_run=dry_run)
    if console.json:
        console.data({"replay": report, "dry_run": dry_run})
    counts: dict[str, Any] = {
        name: getattr(report, name)
        for name in ("appended", "ingested", "settled", "replayed", "busy", "waiting", "lost")
    }
    counts |= {f"refused: {name}": number for name, number in sorted(report.refused.items())}
    rows = [(name, number) for name, number in counts.items() if number]
    console.report(("would be" if dry_run else "letters", "number"), rows)
    for item in report.told:
        console.warn(f"{item['id']}: {item['message']}")


def _instant(text: str | None) -> int | None:
    from featurestore.instants import parse_instant

    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise RequestError(f"--since: {error}") from None


def _short(letter: dict[str, Any]) -> str | None:
    """Return the beginning of a letter's bytes, on one line; how many there are where they are no text."""
    text = letter["text"]
    if text is None:
        return None if letter["bytes"] is None else f"({letter['bytes']} bytes)"
    text = " ".join(text.split())
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
