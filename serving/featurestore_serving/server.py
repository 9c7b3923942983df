"""`serve`: the application on Granian, in this process or in several.

Granian's embedded server takes an application object and an event loop of ours; on one core it answers a bare
application twice as often as uvicorn. It stops listening first, then ends the requests that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from threading import Event
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server

from featurestore.errors import FeatureStoreError, OperatorError
from featurestore.garbage import SERVER_AFTER, seldom_collecting
from featurestore_serving.backend import Backend
from featurestore_serving.metrics import SHARED
from featurestore_serving.readers import load
from featurestore_serving.service import Service
from featurestore_serving.settings import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.1

_QUIET = {
    "incremental": True,
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"level": "CRITICAL"}},
}

OnReady = Callable[[str], None]


def serve(
    backend: Backend,
    *,
    host: str = "127.0.0.1",
    port: int = 6566,
    workers: int = 1,
    on_ready: OnReady | None = None,
    stop: Event | None = None,
    settings: Settings | None = None,
) -> None:
    """Serve until `stop` is set, SIGTERM or SIGINT; return when the requests under way have been answered.

    Port 0 takes a free one. `on_ready` gets the service's URL once it accepts connections. With several
    workers each is a process with a copy of `backend`, which must pickle. Raises OperatorError where the
    address cannot be used, or a worker ends by itself.
    """
    stop = stop or Event()
    settings = settings or Settings.read(os.environ)
    with _reserved(host, port) as (address, port), _stopped_by_signals(stop):
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        ready = (lambda: on_ready(url)) if on_ready is not None else None
        if workers == 1:
            asyncio.run(_serve(backend, address, port, stop, settings, ready))
        else:
            _supervise(backend, address, port, workers, stop, settings, ready)


async def _serve(
    backend: Backend,
    address: str,
    port: int,
    stop: Event,
    settings: Settings,
    ready: Callable[[], None] | None,
) -> None:
    load()
    service = Service(backend, settings)
    server = Server(
        service,
        address,
        port,
        interface=Interfaces.ASGI,
        websockets=False,
        log_enabled=False,
        log_dictconfig=_QUIET,
    )
    task = asyncio.create_task(server.serve())
    try:
        await _accepting(address, port, task)
        if ready is not None:
            ready()
        with contextlib.suppress(FeatureStoreError):  # /readyz tells it, when it is asked
            await asyncio.to_thread(backend.ready)
        await service.application()
        gc.collect()
        gc.freeze()  # what is loaded by now stays: collections need not look at it again
        with seldom_collecting(SERVER_AFTER):
            while not stop.is_set() and not task.done():
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        gc.unfreeze()
        server.stop()  # type: ignore[no-untyped-call]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(task, settings.drain_seconds)


async def _accepting(address: str, port: int, task: asyncio.Task[None]) -> None:
    """Return once the server accepts connections. Raises what it ended with instead."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    while not task.done():
        try:
            _, writer = await asyncio.open_connection(target, port)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        await writer.wait_closed()
        return
    await task
    raise OperatorError("The server ended as it began.", where=f"{address}:{port}")


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Yield the address and the port, held for us; port 0 is a free one.

    The workers listen with SO_REUSEPORT, which would also let two services share a port unawares: the
    first socket, without it, finds one that listens already. The second holds the number.
    """
    where = f"{host}:{port}"
    try:
        family, _, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
        held = socket.socket(family, socket.SOCK_STREAM)
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
            if hasattr(socket, option):
                held.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        held.bind(sockaddr)
    except OSError as error:
        raise OperatorError(
            f"The address cannot be used: {error.strerror}.",
            where=where,
            hint="Choose another --host or --port, or end what listens there.",
        ) from error
    with held:
        address, taken = held.getsockname()[:2]
        yield address, taken


@contextlib.contextmanager
def _stopped_by_signals(stop: Event) -> Iterator[None]:
    """Set `stop` on SIGTERM and SIGINT. Only the main thread gets signals: elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _supervise(
    backend: Backend,
    address: str,
    port: int,
    workers: int,
    stop: Event,
    settings: Settings,
    ready: Callable[[], None] | None,
) -> None:
    """Run the workers as processes until `stop` is set; one that ends by itself ends them all."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="featurestore-metrics-") as shared, _environment(SHARED, shared):
        running = [(context.Pipe(duplex=False), i) for i in range(workers)]
        processes: list[BaseProcess] = []
        try:
            for (_, sender), i in running:
                process = context.Process(
                    target=_work, args=(backend, address, port, settings, sender), name=f"worker-{i + 1}"
                )
                try:
                    process.start()
                except (TypeError, AttributeError, PicklingError) as error:
                    raise OperatorError(
                        f"The feature store cannot be opened in other processes: {error}.",
                        hint="Serve with one worker.",
                    ) from error
                processes.append(process)
                sender.close()
            _watch(processes, [receiver for (receiver, _), _ in running], stop, ready)
        finally:
            for started in processes:
                started.terminate()
            for started in processes:
                started.join(settings.drain_seconds + 1)
                if started.is_alive():
                    started.kill()


def _watch(
    processes: list[BaseProcess],
    receivers: list[Connection],
    stop: Event,
    ready: Callable[[], None] | None,
) -> None:
    waiting = set(receivers)
    while not stop.is_set():
        for receiver in [r for r in waiting if r.poll()]:
            try:
                receiver.recv()
            except EOFError:  # it ended before it was ready, which is seen below
                continue
            waiting.discard(receiver)
            if not waiting and ready is not None:
                ready()
        ended = wait([process.sentinel for process in processes], _POLL_SECONDS)
        if ended and not stop.is_set():
            codes = {p.name: p.exitcode for p in processes if p.sentinel in ended}
            told = ", ".join(f"{name} with status {code}" for name, code in codes.items())
            raise OperatorError(f"A worker ended by itself: {told}.", hint="Its log has the reason.")


def _work(backend: Backend, address: str, port: int, settings: Settings, sender: Any) -> None:
    """Serve in a worker's process, until the supervisor sends SIGTERM, or is gone."""
    stop = Event()
    parent = os.getppid()

    def outlived() -> None:
        while not stop.wait(1.0):
            if os.getppid() != parent:
                stop.set()

    threading.Thread(target=outlived, daemon=True).start()
    # An interrupt from the terminal reaches every process; the supervisor passes it on.
    with _stopped_by_signals(stop):
        asyncio.run(_serve(backend, address, port, stop, settings, lambda: sender.send(True)))


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
