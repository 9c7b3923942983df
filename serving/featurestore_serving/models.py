"""The bodies of requests and answers: decoded into, checked by, and documented from these types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_TTL", "INVALID"]


class OnlineRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Rows to look up in a vector, or in a list of features."""

    vector: Annotated[
        str | None,
        Meta(description="`name`, `name@tag` or `name@fingerprint`.", examples=["transactions-fraud@prod"]),
    ] = None
    features: Annotated[
        list[str] | None,
        Meta(
            description="Instead of `vector`: references `set.feature`, as in a vector's declaration.",
            examples=[["transactions.amount_sum_2h", "events.*"]],
        ),
    ] = None
    rows: Annotated[
        list[dict[str, Any]],
        Meta(
            description=(
                "Each row's keys and inputs by name; with a base, the raw row. Timestamps are ISO 8601 text"
                " with a zone, dates ISO text, binary base64; decimals are numbers or text."
            ),
            examples=[[{"customer": "C1"}]],
        ),
    ]
    as_of: Annotated[
        str | list[str] | None,
        Meta(
            description="One instant as ISO 8601 text with a zone, or one per row; null is now.",
            examples=["2026-11-21T10:00:00.000000Z"],
        ),
    ] = None

    @property
    def reference(self) -> str | list[str]:
        """What the request names: a vector, or a list of features."""
        return self.features if self.vector is None else self.vector  # type: ignore[return-value]


class OnlineAnswer(Struct):
    """Values and statuses, rows in the order asked for, columns in the order declared."""

    vector: Annotated[
        str, Meta(description="The version that answered.", examples=["transactions-fraud@3f2a91"])
    ]
    as_of: Annotated[
        str | list[str],
        Meta(
            description="The instant of the answer; a list where the rows' instants differ.",
            examples=["2026-11-21T10:00:00.000000Z"],
        ),
    ]
    columns: Annotated[list[str], Meta(examples=[["amount_sum_2h"]])]
    rows: Annotated[
        list[list[Any]],
        Meta(
            description=(
                "NaN and infinities are null (their status is PRESENT), integers past 2^53 text, timestamps"
                " ISO text in UTC, dates ISO text, binary base64, decimals text. Arrow is exact."
            ),
            examples=[[[14.68]]],
        ),
    ]
    status: Annotated[list[list[Status]], Meta(examples=[[["PRESENT"]]])]
    errors: Annotated[
        list[str | None] | UnsetType,
        Meta(description="Only when a row is INVALID: why, per row.", examples=[[None]]),
    ] = UNSET


class Place(Struct):
    """Where an event, by its index in the request, stands in its source's stream."""

    index: int
    partition: str
    sequence: int


class RefusedEvent(Struct):
    """An event that was not taken: its index in the request, and why."""

    index: int
    code: Annotated[str, Meta(examples=["bad_type"])]
    message: str


class EventsAnswer(Struct):
    """What became of the events: those accepted are durable."""

    accepted: Annotated[
        list[Place],
        Meta(examples=[[{"index": 0, "partition": "log:1c4c26ae/transactions/0", "sequence": 17}]]),
    ]
    refused: Annotated[list[RefusedEvent], Meta(examples=[[]])]
    servable: Annotated[
        bool | None,
        Meta(
            description="With `wait`: whether all accepted events are servable. Else null.", examples=[True]
        ),
    ] = None


class ErrorDetail(Struct):
    """What happened, where, and what to do."""

    code: Annotated[str, Meta(examples=["unknown_vector"])]
    message: Annotated[str, Meta(examples=["There is no FeatureVector 'fruad' in project 'bank'."])]
    where: Annotated[str | None, Meta(examples=["$.vector"])] = None
    hint: Annotated[str | None, Meta(examples=["Did you mean 'fraud'?"])] = None


class ErrorAnswer(Struct):
    """The body of every answer that is no success."""

    error: ErrorDetail


class InterruptedAnswer(Struct):
    """The body where a push ends midway: the error, and what became of each event."""

    error: ErrorDetail
    accepted: list[Place]
    refused: list[RefusedEvent]
    unacknowledged: Annotated[
        list[int],
        Meta(description="Indexes of events that were sent and may be stored, or not.", examples=[[1]]),
    ]
    unsent_from: Annotated[int, Meta(description="From this index on nothing was sent.", examples=[2])]


class FeatureSets(Struct):
    """The applied feature sets."""

    feature_sets: list[dict[str, Any]]


class FeatureVectors(Struct):
    """The applied feature vectors."""

    feature_vectors: list[dict[str, Any]]


BODIES = (
    OnlineRequest,
    OnlineAnswer,
    EventsAnswer,
    ErrorAnswer,
    InterruptedAnswer,
    FeatureSets,
    FeatureVectors,
)


def schemas() -> dict[str, Any]:
    """Return the JSON Schemas of all bodies by name, for OpenAPI's components."""
    _, components = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
    return components
