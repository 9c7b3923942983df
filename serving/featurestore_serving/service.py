"""The service as a server runs it: what is asked often goes straight to its handler, all else to FastAPI.

FastAPI solves dependencies and opens exit stacks, and these handlers have neither: a request for no rows
takes half the time this way. Nor does it take part in the start: importing it takes longer than all else that
a server needs to be ready, so that is done afterwards, in a thread.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from featurestore_serving.backend import Backend
from featurestore_serving.endpoints import ONLINE, Endpoints
from featurestore_serving.failures import mistaken
from featurestore_serving.settings import Settings


class Service:
    """An ASGI application."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._endpoints = endpoints = Endpoints(backend, settings)
        self._direct = {
            (method, path): endpoints.counted(path, handler)
            for method, path, handler in (
                ("POST", ONLINE, endpoints.online_features),
                ("GET", "/healthz", endpoints.healthz),
                ("GET", "/readyz", endpoints.readyz),
                ("GET", "/metrics", endpoints.prometheus),
            )
        }
        self._app: asyncio.Task[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._live(receive, send)
            return
        handler = self._direct.get((scope["method"], scope["path"]))
        if handler is None:
            await (await self.application())(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an answer, too
            response = mistaken(request, error)
        await response(scope, receive, send)

    async def application(self) -> ASGIApp:
        """Return the FastAPI application, made once."""
        if self._app is None:
            self._app = asyncio.create_task(asyncio.to_thread(self._made))
        return await asyncio.shield(self._app)

    def _made(self) -> ASGIApp:
        from featurestore_serving.app import create_app

        return create_app(self._backend, self._settings, self._endpoints)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Answer the server's messages of its start and its end."""
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self._endpoints.close()
        await send({"type": "lifespan.shutdown.complete"})
