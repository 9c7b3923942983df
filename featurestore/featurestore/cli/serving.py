"""The verb that serves over HTTP: serve."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Event
from typing import Annotated

import typer

from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.cli.streaming import reporter


@verb("Serve")
def serve(
    session: Session,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 6566,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    with_streams: Annotated[
        bool, typer.Option("--with-streams", help="Keep the stores current from the streams too.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the streams answer /healthz, /readyz and /metrics."),
    ] = None,
) -> None:
    """Serve feature vectors over HTTP, until SIGINT or SIGTERM."""
    from featurestore.contracts import extension
    from featurestore.garbage import SERVER_AFTER, seldom_collecting

    def ready(url: str) -> None:
        if session.console.json:
            session.console.data({"url": url})
        session.console.say(f"Serving {session.store.environment.project} on {url}")
        sys.stdout.flush()

    with seldom_collecting(SERVER_AFTER):  # walking over modules as they load is a tenth of the start
        run = extension("serving", "http")
        stop = Event()
        with _streams(session, stop, listen) if with_streams else nullcontext():
            run(session.store, host=host, port=port, workers=workers, on_ready=ready, stop=stop)


@contextmanager
def _streams(session: Session, stop: Event, listen: str | None) -> Iterator[None]:
    """Run every stream in a thread beside the service; where they fail, the service ends with their error."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            session.store.stream(stop=stop, listen=listen, report=reporter(session, lambda _: None))
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            errors.append(error)
            stop.set()

    thread = threading.Thread(target=run, name="streams")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
