"""The FastAPI application: paths, their documentation, and answers to what no path takes."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from featurestore import __version__
from featurestore.errors import UnknownName, did_you_mean
from featurestore_serving import documentation
from featurestore_serving.backend import Backend
from featurestore_serving.endpoints import ONLINE, Endpoints
from featurestore_serving.failures import NoSuchMethod, failure, mistaken
from featurestore_serving.settings import Settings


def create_app(
    backend: Backend, settings: Settings | None = None, endpoints: Endpoints | None = None
) -> FastAPI:
    """Return the application of a feature store; without `settings`, those of the environment."""
    settings = settings or Settings.read(os.environ)
    endpoints = endpoints or Endpoints(backend, settings)

    app = FastAPI(
        title="featurestore",
        version=__version__,
        description=documentation.DESCRIPTION,
        redoc_url=None,
    )
    for method, path, handler in (
        ("POST", ONLINE, endpoints.online_features),
        ("POST", "/v1/sources/{name}/events", endpoints.events),
        ("GET", "/v1/feature-sets", endpoints.feature_sets),
        ("GET", "/v1/feature-vectors", endpoints.feature_vectors),
        ("GET", "/healthz", endpoints.healthz),
        ("GET", "/readyz", endpoints.readyz),
        ("GET", "/metrics", endpoints.prometheus),
    ):
        app.add_api_route(
            path,
            endpoints.counted(path, handler),
            methods=[method],
            name=handler.__name__,
            description=handler.__doc__,
            response_class=Response,
            openapi_extra=documentation.OPERATIONS[path],
        )
    _answer_the_rest(app, endpoints)
    _document(app, secured=settings.token is not None)
    return app


def _answer_the_rest(app: FastAPI, endpoints: Endpoints) -> None:
    """Give unknown paths, wrong methods and our own mistakes the same form as all other errors."""
    paths = list(documentation.OPERATIONS)

    async def unmatched(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            response = failure(NoSuchMethod(f"{path} does not take {request.method}.", where=path))
            response.headers.update(error.headers or {})
        else:
            unknown = UnknownName(f"There is no path '{path}'.", where=path, hint=did_you_mean(path, paths))
            unknown.code = "unknown_path"
            response = failure(unknown)
        endpoints.metrics.answered("unmatched", response.status_code, 0.0)
        return response

    async def unexpected(request: Request, error: Exception) -> Response:
        return mistaken(request, error)

    app.add_exception_handler(HTTPException, unmatched)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, unexpected)


def _document(app: FastAPI, *, secured: bool) -> None:
    """Let the OpenAPI document hold the schemas of the bodies, and the token where one is asked for."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = documentation.completed(made(), secured=secured)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
