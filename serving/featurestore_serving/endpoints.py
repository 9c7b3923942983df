"""What each path does. Handlers take a request and return bytes; failures are answers, and all is counted."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from featurestore.errors import FeatureStoreError, OperatorError, PushInterrupted, UnknownName
from featurestore_serving.answers import ARROW, JSON
from featurestore_serving.backend import Backend, PushReport
from featurestore_serving.bodies import events_of, instants_of, online_request, read_body, seconds_of
from featurestore_serving.failures import RefusedEvents, Unauthorized, failure
from featurestore_serving.metrics import CONTENT_TYPE, Metrics
from featurestore_serving.readers import Readers
from featurestore_serving.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]

ONLINE = "/v1/online-features"

_GONE = 499  # the client left before its request was whole; nobody reads the answer


class Endpoints:
    """The handlers of one application."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.metrics = Metrics()
        self._backend = backend
        self._settings = settings
        self._readers = Readers(backend)
        self._pushes = ThreadPoolExecutor(settings.push_threads, "push")
        self._authorization = f"Bearer {settings.token}".encode() if settings.token else None

    def close(self) -> None:
        """Release the threads."""
        self._pushes.shutdown(wait=False)

    def counted(self, path: str, handler: Handler) -> Handler:
        """Return the handler with errors as answers, and each request counted under `path`."""
        guarded = path.startswith("/v1/") and self._authorization is not None

        async def endpoint(request: Request) -> Response:
            start = time.perf_counter()
            status = 500
            try:
                if guarded:
                    self._check_token(request)
                response = await handler(request)
                status = response.status_code
            except FeatureStoreError as error:
                response = failure(error)
                status = response.status_code
            except ClientDisconnect:
                response = Response(status_code=_GONE)
                status = _GONE
            finally:
                self.metrics.answered(path, status, time.perf_counter() - start)
            return response

        return endpoint

    def _check_token(self, request: Request) -> None:
        sent = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(sent, self._authorization or b""):
            raise Unauthorized(
                "The request has no token, or another one.",
                where="Authorization",
                hint="Send the header Authorization: Bearer <token>.",
            )

    async def online_features(self, request: Request) -> Response:
        """Answer rows' feature vectors."""
        body = await read_body(request, self._settings.max_body_bytes)
        asked = online_request(body, self._settings.max_rows)
        as_of = instants_of(asked.as_of)
        try:
            vector = await self._readers.get(asked.reference)
        except UnknownName as error:
            error.code = "unknown_vector" if asked.features is None else "unknown_feature_set"
            error.where = "$.vector" if asked.features is None else "$.features"
            raise
        result = await vector.reader.read_async(asked.rows, as_of=as_of)
        self.metrics.served(result.status, result.overflows)
        if ARROW in request.headers.get("accept", ""):
            return Response(vector.answers.arrow(result), media_type=ARROW)
        return Response(vector.answers.json(result), media_type=JSON)

    async def events(self, request: Request) -> Response:
        """Append events to a source's stream; with `wait`, answer when they are servable."""
        wait = seconds_of(request.query_params.get("wait"), self._settings.max_wait_seconds)
        body = await read_body(request, self._settings.max_body_bytes)
        kind = request.headers.get("content-type", "")
        events = events_of(body, kind, self._settings.max_body_bytes)
        source = request.path_params["name"]
        loop = asyncio.get_running_loop()
        try:
            report: PushReport = await loop.run_in_executor(
                self._pushes, self._backend.push, source, events, wait
            )
        except UnknownName as error:
            error.code = "unknown_source"
            raise
        except PushInterrupted as error:
            told = {
                "accepted": list(error.report.accepted),
                "refused": list(error.report.refused),
                "unacknowledged": error.unacknowledged,
                "unsent_from": error.unsent_from,
            }
            return failure(error, **told)
        fields = {
            "accepted": list(report.accepted),
            "refused": list(report.refused),
            "servable": report.servable,
        }
        if report.refused and not report.accepted:
            return failure(RefusedEvents(len(report.refused)), **fields)
        return Response(orjson.dumps(fields), 207 if report.refused else 200, media_type=JSON)

    async def feature_sets(self, _: Request) -> Response:
        """List the applied feature sets."""
        return _json({"feature_sets": await asyncio.to_thread(self._backend.describe_sets)})

    async def feature_vectors(self, _: Request) -> Response:
        """List the applied feature vectors."""
        return _json({"feature_vectors": await asyncio.to_thread(self._backend.describe_vectors)})

    async def healthz(self, _: Request) -> Response:
        """Tell that the process answers."""
        return _json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Tell that the registry and the online store answer."""
        await asyncio.to_thread(self._backend.ready)
        return _json({"status": "ready"})

    async def prometheus(self, _: Request) -> Response:
        """Tell the metrics; `featurestore_up` is 0 where the backend does not answer for its own."""
        try:
            gauges = {**await asyncio.to_thread(self._backend.metrics), "featurestore_up": 1.0}
        except OperatorError:
            gauges = {"featurestore_up": 0.0}
        return Response(self.metrics.text(gauges), media_type=CONTENT_TYPE)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, str), media_type=JSON)
