"""What the service asks of a feature store. `featurestore.FeatureStore` answers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from featurestore.online.reader import VectorReader


class PushReport(Protocol):
    """What became of pushed events, in the order pushed."""

    @property
    def accepted(self) -> Sequence[dict[str, Any]]:
        """One `{"index", "partition", "sequence"}` per event that is durable now."""

    @property
    def refused(self) -> Sequence[dict[str, Any]]:
        """One `{"index", "code", "message"}` per event that the door refused."""

    @property
    def servable(self) -> bool | None:
        """Whether all accepted events are servable; None when nobody waited for that."""


class Backend(Protocol):
    """A feature store as it is served. Its methods may block, and are called from several threads.

    With several workers it is pickled, and each process opens what arrives.
    """

    def reader(self, reference: str | list[str]) -> VectorReader:
        """Return the compiled reader of a vector, or of a list of `set.feature`; the same one each time.

        Raises UnknownName with the nearest name; SpecError where the list makes no vector.
        """

    def push(self, source: str, events: Any, wait: float | None) -> PushReport:
        """Append events, an iterable of JSON objects or a frame; with `wait`, seconds, until servable.

        Raises PushInterrupted where it ends after some of them were sent.
        """

    def describe_sets(self) -> list[dict[str, Any]]:
        """Return what `GET /v1/feature-sets` lists, as JSON values."""

    def describe_vectors(self) -> list[dict[str, Any]]:
        """Return what `GET /v1/feature-vectors` lists, as JSON values."""

    def ready(self) -> None:
        """Raise an OperatorError unless the registry and the online store answer."""

    def metrics(self) -> dict[str, float]:
        """Return gauges by Prometheus sample: `featurestore_lag_events{feature_set="payments"}`."""
