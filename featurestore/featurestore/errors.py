"""The errors that this project raises, split by who can fix them.

::

    FeatureStoreError
    ├── SpecError            the author of a spec: file:line, what, what to do
    ├── RequestError         the caller of a request or a method
    │   ├── ChecksFailed     a batch input that its set's checks and expectations refuse
    │   ├── UnknownName      a name, a tag or a fingerprint that nothing has
    │   └── HistoryError     an `as_of` that the store cannot answer
    └── OperatorError        the operator: a server, a disk, a permission
        ├── StoreUnavailable a server that does not answer; retrying may help
        │   ├── NotAcknowledged  records of an append, of which others may be stored
        │   └── PushInterrupted  a push that ended midway; it tells which events are durable
        └── MissingExtra     an optional package that is not installed

Each carries what happened, where, and what to do. Only `serving` maps them to status codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class FeatureStoreError(Exception):
    """An error with a stable `code`, a `message`, and optionally `where` and a `hint`."""

    code = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} {self.hint}" if self.hint else text


class SpecError(FeatureStoreError):
    """A declaration that cannot be used."""

    code = "invalid_spec"


class RequestError(FeatureStoreError):
    """A request or an argument that cannot be used."""

    code = "invalid_request"


class UnknownName(RequestError):
    """A name, a tag or a fingerprint that nothing has; the hint is the nearest one."""

    code = "unknown_name"


class ChecksFailed(RequestError):
    """A batch input that checks or expectations of severity `fail` refuse; none of it is ingested.

    `report` is that of the ingest that it ended.
    """

    code = "failed_checks"
    report: Any = None


class HistoryError(RequestError):
    """An instant that lies outside what the store can answer exactly."""

    code = "outside_history"


class OperatorError(FeatureStoreError):
    """Something that the person who runs the service has to put right."""

    code = "operator"
    retryable = False


class StoreUnavailable(OperatorError):
    """A store or a broker that does not answer now."""

    code = "unavailable"
    retryable = True


class NotAcknowledged(StoreUnavailable):
    """Records of one append that a broker or a log did not acknowledge.

    `placed` has each record's partition and sequence, None where no acknowledgement came; of those `refused`
    says which are not stored and never will be, and why. Whether the others are stored is unknown.
    """

    code = "not_acknowledged"

    def __init__(
        self,
        message: str,
        placed: Sequence[tuple[str, int] | None],
        refused: Mapping[int, str],
        *,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.placed = placed
        self.refused = refused
        self.retryable = len(refused) < placed.count(None)


class PushInterrupted(StoreUnavailable):
    """A push that ended before all its events were appended.

    `report` has those that are durable and those that were refused, by their index; `unacknowledged` are the
    indexes of events that were sent and may be stored or not; from index `unsent_from` on nothing was sent.
    To send both again doubles nothing where the source has an `event_id:`.
    """

    code = "push_interrupted"

    def __init__(
        self,
        message: str,
        report: Any,
        unacknowledged: Sequence[int],
        unsent_from: int,
        *,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.report = report
        self.unacknowledged = list(unacknowledged)
        self.unsent_from = unsent_from


class MissingExtra(OperatorError):
    """An optional package that is not installed."""

    code = "missing_extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs a package that is not installed.",
            hint=f"Run: pip install 'featurestore[{extra}]'",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest of `known`, or lists them when none is near."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(name, choices, n=1)
    if near:
        return f"Did you mean '{near[0]}'?"
    if not choices:
        return "None is declared."
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f"Known: {shown}."
