"""What the OpenAPI page tells of each path, with an example of every body."""

from __future__ import annotations

from typing import Any

from featurestore_serving.answers import ARROW, JSON
from featurestore_serving.models import schemas

DESCRIPTION = """\
Feature vectors in milliseconds, and events in.

JSON answers write NaN and infinities as null, integers past 2^53 as text, timestamps as ISO text in UTC,
dates as ISO text, binary as base64 and decimals as text. With `Accept: application/vnd.apache.arrow.stream`
the same answer comes as an Arrow IPC stream, exact: the features with their types, then `__status` (a list,
in the features' order), `__as_of` and `__error`.

Errors are `{"error": {"code", "message", "where", "hint"}}`.
"""

ONLINE_REQUEST: dict[str, Any] = {
    "vector": "transactions-fraud@prod",
    "rows": [{"customer": "C1"}],
    "as_of": None,
}
FEATURES_REQUEST: dict[str, Any] = {
    "features": ["transactions.amount_sum_2h"],
    "rows": [{"customer": "C1"}, {"customer": "C2"}],
    "as_of": ["2026-11-21T10:00:00Z", "2026-11-21T09:30:00Z"],
}
ONLINE_ANSWER: dict[str, Any] = {
    "vector": "transactions-fraud@3f2a91",
    "as_of": "2026-11-21T10:00:00.000000Z",
    "columns": ["amount_sum_2h"],
    "rows": [[14.68]],
    "status": [["PRESENT"]],
}
EVENT: dict[str, Any] = {
    "transaction_id": "T-1",
    "source": "C1",
    "timestamp": "2026-11-21T10:00:00Z",
    "amount": 14.68,
}
EVENTS_ANSWER: dict[str, Any] = {
    "accepted": [{"index": 0, "partition": "log:1c4c26ae/transactions/0", "sequence": 17}],
    "refused": [],
    "servable": True,
}
INTERRUPTED_ANSWER: dict[str, Any] = {
    "error": {
        "code": "push_interrupted",
        "message": "Kafka at broker:9092, topic 'transactions': no answer in time.",
        "where": None,
        "hint": "Push those that are not durable again; a source with event_id: drops repeats.",
    },
    "accepted": EVENTS_ANSWER["accepted"],
    "refused": [],
    "unacknowledged": [1],
    "unsent_from": 2,
}
ERROR_ANSWER: dict[str, Any] = {
    "error": {
        "code": "unknown_vector",
        "message": "There is no FeatureVector 'transaction-fraud' in project 'fraud'.",
        "where": "$.vector",
        "hint": "Did you mean 'transactions-fraud'?",
    }
}
SETS_ANSWER: dict[str, Any] = {
    "feature_sets": [
        {
            "name": "transactions",
            "version": "3f2a91c0d4e7",
            "source": "payments",
            "online": True,
            "keys": {"customer": "string"},
            "features": {"amount_sum_2h": "float64"},
        }
    ]
}
VECTORS_ANSWER: dict[str, Any] = {
    "feature_vectors": [
        {
            "name": "transactions-fraud",
            "version": "3f2a91c0d4e7",
            "keys": ["customer"],
            "base": None,
            "inputs": {},
            "features": {"amount_sum_2h": "float64"},
            "label": "label",
        }
    ]
}

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "OnlineRequest": [ONLINE_REQUEST, FEATURES_REQUEST],
    "OnlineAnswer": [ONLINE_ANSWER],
    "EventsAnswer": [EVENTS_ANSWER],
    "ErrorAnswer": [ERROR_ANSWER],
    "InterruptedAnswer": [INTERRUPTED_ANSWER],
    "FeatureSets": [SETS_ANSWER],
    "FeatureVectors": [VECTORS_ANSWER],
}

_FAILURES = {
    "400": "The request cannot be used.",
    "401": "The token is missing, or another one.",
    "404": "There is nothing of that name.",
    "413": "The body is too large.",
    "422": "The store cannot answer at that instant.",
    "500": "The operator has to put something right.",
    "503": "A store does not answer now; try again after `Retry-After` seconds.",
}


def completed(document: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    """Return the OpenAPI document with the schemas of the bodies, and the token where one is asked for."""
    components = document.setdefault("components", {})
    components["schemas"] = schemas()
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = [{"token": []}]
    return document


def _body(name: str) -> dict[str, Any]:
    named = {f"example {i}": {"value": example} for i, example in enumerate(EXAMPLES[name], 1)}
    return {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": named}


def _failures(*statuses: str) -> dict[str, Any]:
    content = {JSON: _body("ErrorAnswer")}
    return {status: {"description": _FAILURES[status], "content": content} for status in statuses}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_EVENT = {"schema": {"type": "object"}, "examples": {"one event": {"value": EVENT}}}
_EVENTS = {
    "schema": {"oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]},
    "examples": {"one event": {"value": EVENT}, "several": {"value": [EVENT]}},
}
_TEXT = {"schema": {"type": "string"}}

OPERATIONS: dict[str, dict[str, Any]] = {
    "/v1/online-features": {
        "summary": "Look feature vectors up",
        "requestBody": {"required": True, "content": {JSON: _body("OnlineRequest")}},
        "responses": {
            "200": {
                "description": "The vectors; a row that is bad in itself is INVALID, and fails alone.",
                "content": {JSON: _body("OnlineAnswer"), ARROW: _BINARY},
            },
            **_failures("400", "401", "404", "413", "422", "500", "503"),
        },
    },
    "/v1/sources/{name}/events": {
        "summary": "Push events",
        "parameters": [
            {"name": "name", "in": "path", "required": True, "description": "The source.", **_TEXT},
            {
                "name": "wait",
                "in": "query",
                "required": False,
                "description": "Answer when the events are servable, or after this long, as `5s`.",
                **_TEXT,
            },
        ],
        "requestBody": {
            "required": True,
            "description": "One JSON object, an array of them, one per line, or the rows of an Arrow stream.",
            "content": {JSON: _EVENTS, "application/x-ndjson": _EVENT, ARROW: _BINARY},
        },
        "responses": {
            "200": {"description": "All events are durable.", "content": {JSON: _body("EventsAnswer")}},
            "207": {"description": "Some were refused.", "content": {JSON: _body("EventsAnswer")}},
            **_failures("400", "401", "404", "413", "500"),
            "503": {
                "description": "The broker, or a store, does not answer now; try again after `Retry-After` "
                "seconds. Where some events were sent, their indexes stand beside the error.",
                "content": {JSON: _body("InterruptedAnswer")},
            },
            "422": {
                "description": "All events were refused: the error, and beside it what 207 has.",
                "content": {JSON: {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
            },
        },
    },
    "/v1/feature-sets": {
        "summary": "List feature sets",
        "responses": {
            "200": {"description": "The applied feature sets.", "content": {JSON: _body("FeatureSets")}},
            **_failures("401", "500", "503"),
        },
    },
    "/v1/feature-vectors": {
        "summary": "List feature vectors",
        "responses": {
            "200": {
                "description": "The applied feature vectors.",
                "content": {JSON: _body("FeatureVectors")},
            },
            **_failures("401", "500", "503"),
        },
    },
    "/healthz": {"summary": "Is the process alive?", "responses": {"200": {"description": "It is."}}},
    "/readyz": {
        "summary": "Can it serve?",
        "responses": {"200": {"description": "It can."}, **_failures("500", "503")},
    },
    "/metrics": {
        "summary": "Metrics for Prometheus",
        "responses": {"200": {"description": "The metrics.", "content": {"text/plain": _TEXT}}},
    },
}
