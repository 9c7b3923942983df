"""Verbs of streams: stream, push."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer

from featurestore import logs
from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.cli.stopping import stopping
from featurestore.errors import FeatureStoreError
from featurestore.events import FRAMES

_PANEL = "Stream"
_SCALING = "Scaling"
_AT_ONCE = 5_000  # events that one push appends
_TELL_SECONDS = 30.0  # how often a stream without a terminal says how far it is

Counts = dict[str, dict[str, int]]

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger(__name__)

LogFormat = Annotated[
    str, typer.Option(metavar="text|json", help="Lines for people, or one JSON object per line.")
]
LogLevel = Annotated[str, typer.Option(metavar="debug|info|warning|error", help="The least that is logged.")]


@verb(_PANEL)
def stream(
    session: Session,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Sources or feature sets; default, all.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="bytewax|local", help="Default, Bytewax where it is installed.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Threads per source and process, on Bytewax.", rich_help_panel=_SCALING)
    ] = 1,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes on this machine, on Bytewax.", rich_help_panel=_SCALING),
    ] = 1,
    addresses: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT,…",
            help="All processes of a cluster over machines; every source takes the next port.",
            rich_help_panel=_SCALING,
        ),
    ] = "",
    process_id: Annotated[
        int,
        typer.Option(min=0, help="Which of --addresses this process is, from 0.", rich_help_panel=_SCALING),
    ] = 0,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Answer /healthz, /readyz and /metrics; port 0: a free one."),
    ] = None,
    give_up_after: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="How long a store or the broker may be away before the stream ends."
        ),
    ] = "5m",
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
    drain: Annotated[bool, typer.Option("--drain", help="Apply what there is, and stop.")] = False,
) -> None:
    """Keep the stores current from the streams, until SIGINT or SIGTERM."""
    if processes > 1 and addresses:
        raise typer.BadParameter("--processes and --addresses exclude each other.")
    members = [part.strip() for part in addresses.split(",") if part.strip()]
    if process_id and not members:
        raise typer.BadParameter("--process-id is a place among --addresses, which has none.")
    with logging_to_stderr(session, log_format, log_level):
        if drain:
            with session.console.progress("drain", unit=""):
                counts = session.store.drain(sources or [])
        else:
            from featurestore.instants import SECOND, parse_duration

            stop = Event()
            with stopping(stop), session.console.progress("stream", unit="records") as advance:
                counts = session.store.stream(
                    sources or [],
                    engine=engine,
                    workers=workers,
                    processes=processes,
                    addresses=members,
                    process=process_id,
                    listen=listen,
                    give_up_seconds=parse_duration(give_up_after) / SECOND,
                    stop=stop,
                    report=reporter(session, advance, log_format),
                )
    show_counts(session, counts)


@contextmanager
def logging_to_stderr(session: Session, log_format: str, log_level: str) -> Iterator[None]:
    """Log while in the block, as the options say; with --quiet, errors and warnings only.

    Where the format is JSON, the error that ends the block is a line of the log too.
    """
    for given, known in ((log_format, LOG_FORMATS), (log_level, LOG_LEVELS)):
        if given not in known:
            raise typer.BadParameter(f"'{given}' is not one of {', '.join(known)}.")
    quiet = session.console.quiet and log_level in ("debug", "info")
    handler = logs.configure(logs.LogSettings(log_format, "warning" if quiet else log_level))
    try:
        yield
    except FeatureStoreError as error:
        if log_format != "json" or session.console.json:
            raise
        log.error("%s", error, extra={"code": error.code})
        raise typer.Exit(1) from error
    finally:
        logs.remove(handler)


@verb(_PANEL, "accept-topic")
def accept_topic(
    session: Session,
    source: Annotated[str, typer.Argument(help="The source.")],
    start: Annotated[
        str, typer.Option(metavar="earliest|latest|INSTANT", help="Where to begin in the new topic.")
    ] = "earliest",
) -> None:
    """Go on with a topic that was made anew, lies in another cluster, or lost records to retention."""
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
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="JSON lines, .parquet or .arrow; default, standard input."
        ),
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Wait until they are servable, at most so long: 5s."),
    ] = None,
) -> None:
    """Append events to a source's stream; they are durable when it returns."""
    from featurestore.errors import PushInterrupted, StoreUnavailable
    from featurestore.instants import SECOND, parse_duration

    seconds = None if wait is None else parse_duration(wait) / SECOND
    accepted, refused, servable = 0, [], True
    failure: StoreUnavailable | None = None
    word = "row" if data is not None and data.suffix in FRAMES else "line"
    with session.console.progress(f"push {source}", unit="events") as advance:
        events = _events(data)
        # With a wait all of them are one push, for the wait is for all of them.
        for part in [list(events)] if seconds is not None else _parts(events, _AT_ONCE):
            try:
                report = session.store.push(source, [event for _, event in part], seconds)
            except PushInterrupted as error:
                report = error.report
                perhaps = ", ".join(str(part[index][0]) for index in error.unacknowledged[:10])
                more = ", …" if len(error.unacknowledged) > 10 else ""
                unsent = part[error.unsent_from - 1][0]
                failure = StoreUnavailable(
                    f"{error.__cause__} Of {word}s {perhaps}{more} it is unknown whether they are stored; "
                    f"none after {word} {unsent} was sent.",
                    hint=error.hint,
                )
            accepted += len(report.accepted)
            refused += [{**item, word: part[item["index"]][0]} for item in report.refused]
            servable = servable and report.servable is not False
            advance(len(part))
            if failure is not None:
                break
    answer = {"accepted": accepted, "refused": refused, "servable": servable if seconds is not None else None}
    if session.console.json:
        session.console.data(answer)
    for item in refused:
        print(f"{word} {item[word]}: {item['code']}: {item['message']}", file=sys.stderr)
    waited = "" if seconds is None else ", servable" if servable else f", not servable after {wait}"
    session.console.say(f"{source}: {accepted:,} accepted{waited}, {len(refused):,} refused")
    if failure is not None:
        raise failure
    if refused or not servable:
        raise typer.Exit(1)


def reporter(
    session: Session, advance: Callable[[int], None], log_format: str = "text"
) -> Callable[[Counts], None]:
    """Return what a stream tells its counts to: the bar on a terminal, else a line now and then."""
    shown, told_at, told = 0, time.monotonic(), -1
    say = session.console.warn if log_format == "text" else log.info

    def report(counts: Counts) -> None:
        nonlocal shown, told_at, told
        if told < 0:
            say(f"Streaming {', '.join(counts)}.")
            told = 0
        records = sum(found.get("records", 0) for found in counts.values())
        advance(records - shown)
        shown = records
        if time.monotonic() - told_at >= _TELL_SECONDS and told != records and not sys.stderr.isatty():
            told_at, told = time.monotonic(), records
            say(f"stream: {records:,} records")

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


def _events(path: Path | None) -> Iterator[tuple[int, Any]]:
    """Yield events with their number: of the line, or of the row where the file holds a frame."""
    if path is not None and path.suffix in FRAMES:
        from featurestore.events import payloads

        yield from enumerate(payloads(path), start=1)
        return
    standard = path is None or str(path) == "-"
    with open(sys.stdin.fileno(), "rb", closefd=False) if standard else open(str(path), "rb") as file:
        for number, line in enumerate(file, start=1):
            if stripped := line.strip():
                yield number, stripped


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size` items; of none, one that is empty."""
    every = iter(items)
    yield list(islice(every, size))
    while part := list(islice(every, size)):
        yield part
