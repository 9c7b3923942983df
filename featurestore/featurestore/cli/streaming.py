"""Verbs of streams: stream, push."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Annotated, Any, BinaryIO

import typer

from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.cli.stopping import stopping

_PANEL = "Stream"
_AT_ONCE = 5_000  # events that one push appends
_TELL_SECONDS = 30.0  # how often a stream without a terminal says how far it is

Counts = dict[str, dict[str, int]]


@verb(_PANEL)
def stream(
    session: Session,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Sources or feature sets; default, all.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="bytewax|local", help="Default, Bytewax where it is installed.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads per source, on Bytewax.")] = 1,
    drain: Annotated[bool, typer.Option("--drain", help="Apply what there is, and stop.")] = False,
) -> None:
    """Keep the stores current from the streams, until SIGINT or SIGTERM."""
    if drain:
        with session.console.progress("drain", unit=""):
            counts = session.store.drain(sources or [])
    else:
        stop = Event()
        with stopping(stop), session.console.progress("stream", unit="records") as advance:
            counts = session.store.stream(
                sources or [], engine=engine, workers=workers, stop=stop, report=reporter(session, advance)
            )
    show_counts(session, counts)


@verb(_PANEL, "accept-topic")
def accept_topic(
    session: Session,
    source: Annotated[str, typer.Argument(help="The source.")],
    start: Annotated[
        str, typer.Option(metavar="earliest|latest|INSTANT", help="Where to begin in the new topic.")
    ] = "earliest",
) -> None:
    """Go on with a topic that was deleted and made anew, or that lies in another cluster."""
    begun = session.store.accept_topic(source, start)
    if session.console.json:
        session.console.data({"begins": begun})
    for partition, sequence in begun.items():
        session.console.say(f"{partition}: from {sequence:,}")
    if not begun:
        session.console.say(f"{source}: the topic is the one that the stores know; nothing to accept")


@verb(_PANEL)
def push(
    session: Session,
    source: Annotated[str, typer.Argument(help="The source.")],
    data: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="JSON lines; default, standard input.")
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Wait until they are servable, at most so long: 5s."),
    ] = None,
) -> None:
    """Append events to a source's stream; they are durable when it returns."""
    from featurestore.instants import SECOND, parse_duration

    seconds = None if wait is None else parse_duration(wait) / SECOND
    accepted, refused, servable = 0, [], True
    with _opened(data) as file, session.console.progress(f"push {source}", unit="events") as advance:
        numbered = ((n, line.strip()) for n, line in enumerate(file, start=1))
        lines = (item for item in numbered if item[1])
        # With a wait all of them are one push, for the wait is for all of them.
        for part in [list(lines)] if seconds is not None else _parts(lines, _AT_ONCE):
            report = session.store.push(source, [text for _, text in part], seconds)
            accepted += len(report.accepted)
            refused += [{**item, "line": part[item["index"]][0]} for item in report.refused]
            servable = servable and report.servable is not False
            advance(len(part))
    answer = {"accepted": accepted, "refused": refused, "servable": servable if seconds is not None else None}
    if session.console.json:
        session.console.data(answer)
    for item in refused:
        print(f"line {item['line']}: {item['code']}: {item['message']}", file=sys.stderr)
    waited = "" if seconds is None else ", servable" if servable else f", not servable after {wait}"
    session.console.say(f"{source}: {accepted:,} accepted{waited}, {len(refused):,} refused")
    if refused or not servable:
        raise typer.Exit(1)


def reporter(session: Session, advance: Callable[[int], None]) -> Callable[[Counts], None]:
    """Return what a stream tells its counts to: the bar on a terminal, else a line now and then."""
    shown, told_at, told = 0, time.monotonic(), -1

    def report(counts: Counts) -> None:
        nonlocal shown, told_at, told
        if told < 0:
            session.console.warn(f"Streaming {', '.join(counts)}.")
            told = 0
        records = sum(found.get("records", 0) for found in counts.values())
        advance(records - shown)
        shown = records
        if time.monotonic() - told_at >= _TELL_SECONDS and told != records and not sys.stderr.isatty():
            told_at, told = time.monotonic(), records
            session.console.warn(f"stream: {records:,} records")

    return report


def show_counts(session: Session, counts: Counts) -> None:
    """Print what went through each source's stream."""
    if session.console.json:
        session.console.data({"streams": counts})
    names = list(dict.fromkeys(["records", *(name for found in counts.values() for name in found)]))
    session.console.report(
        ("source", *(name.replace("_", " ") for name in names)),
        [(source, *(found.get(name, 0) for name in names)) for source, found in counts.items()],
    )


def _opened(path: Path | None) -> BinaryIO:
    if path is None or str(path) == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return path.open("rb")


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size` items."""
    every = iter(items)
    while part := list(islice(every, size)):
        yield part
