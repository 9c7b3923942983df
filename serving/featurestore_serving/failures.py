"""Errors as answers: one table of status codes, one shape of body, and nothing of the code's inside."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from featurestore.errors import (
    FeatureStoreError,
    HistoryError,
    MissingExtra,
    OperatorError,
    RequestError,
    SpecError,
    StoreUnavailable,
    UnknownName,
)

RETRY_AFTER_SECONDS = 1

_log = logging.getLogger("featurestore.serving")


class TooLarge(RequestError):
    """A body of more bytes, or with more rows, than the settings allow."""

    code = "too_large"


def too_large(limit: int) -> TooLarge:
    """Return the error of a body that has more than `limit` bytes."""
    return TooLarge(
        f"The body has more than {limit} bytes.",
        hint="Send it in parts, or raise FEATURESTORE_MAX_BODY_BYTES.",
    )


class Unauthorized(RequestError):
    """A request without the token that the settings ask for."""

    code = "unauthorized"


class NoSuchMethod(RequestError):
    """A path that is served, but not by this method."""

    code = "method_not_allowed"


class RefusedEvents(RequestError):
    """A push of which not one event was taken."""

    code = "refused"

    def __init__(self, count: int) -> None:
        what = "The event was refused." if count == 1 else f"All {count} events were refused."
        super().__init__(what, where="$.refused", hint="Each reason is in the list `refused` of this answer.")


class Unexpected(OperatorError):
    """A mistake of this program: its log has what happened."""

    code = "internal"


# The first class that fits decides.
STATUS: tuple[tuple[type[FeatureStoreError], int], ...] = (
    (TooLarge, 413),
    (Unauthorized, 401),
    (NoSuchMethod, 405),
    (UnknownName, 404),
    (RefusedEvents, 422),
    (HistoryError, 422),
    (RequestError, 400),
    (SpecError, 400),
    (StoreUnavailable, 503),
    (MissingExtra, 501),
    (OperatorError, 500),
    (FeatureStoreError, 500),
)


def status_of(error: FeatureStoreError) -> int:
    """Return the status code of an error."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def mistaken(request: Request, error: Exception) -> Response:
    """Log a mistake of this program, and return the answer that tells when."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return failure(Unexpected("The service made a mistake.", hint=f"Its log at {now} has what happened."))


def failure(error: FeatureStoreError, **more: Any) -> Response:
    """Return the answer that tells an error; `more` stands beside it in the body."""
    status = status_of(error)
    headers: Mapping[str, str] = {}
    if isinstance(error, StoreUnavailable):
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    elif isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
    body = {
        "error": {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint},
        **more,
    }
    return Response(orjson.dumps(body), status, headers, "application/json")
