"""Push: events into a source's stream, checked at the door, acknowledged when durable (DESIGN 3.14).

Events are taken in parts, each of which is checked, appended and acknowledged before the next one is read. So
any number of them passes through bounded memory, and a push that ends midway knows what is durable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore import instants
from featurestore.beginning import begin_before_push
from featurestore.errors import (
    NotAcknowledged,
    OperatorError,
    PushInterrupted,
    RequestError,
)
from featurestore.events import Refused, payloads
from featurestore.expressions import RowRejected
from featurestore.keys import cast_key, encode_key, shard_of
from featurestore.online.requests import cast_row
from featurestore.online.writer import decode_positions
from featurestore.plans import SetPlan, SourcePlan
from featurestore.rows.avro_writing import encode, is_avro
from featurestore.steps.rows import compile_each

if TYPE_CHECKING:
    from featurestore.contracts import StreamSource
    from featurestore.store import FeatureStore

_PART_EVENTS = 5_000
_PART_BYTES = 4 * 1024 * 1024
_LOCAL_AFTER = 0.5  # seconds without progress after which this process applies the events itself
_PAUSE_SECONDS = (0.002, 0.1)
_decode = msgspec.json.Decoder(float_hook=Decimal).decode  # decimals to the last digit
_draining = threading.Lock()

Row = dict[str, Any]
Place = tuple[str, int]


@dataclass
class PushReport:
    """What became of pushed events, each by its `index` among them.

    `accepted`: index, partition and sequence of those that are durable. `refused`: index, code and message.
    `servable` is None unless asked for with `wait`.
    """

    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    servable: bool | None = None


def push(store: FeatureStore, source: str, events: Any, wait: float | None) -> PushReport:
    """Append the events that the source's schema admits; see `FeatureStore.push`."""
    plan = store.catalog.pushed(source)
    stream = store.environment.stream(plan)
    begin_before_push(store.environment, plan)
    report = PushReport()
    waiting = None if wait is None else _Waiting(store, plan)
    for part in _parts(plan, events, report):
        placed = _append(stream, part, report)
        if waiting is not None:
            waiting.add(part.rows, placed)
    report.refused.sort(key=lambda item: int(item["index"]))
    if wait is not None and waiting is not None:
        report.servable = waiting.wait(time.monotonic() + wait)
    return report


@dataclass
class _Part:
    """Events that are appended together, and the index of the first one after them."""

    indexes: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    end: int = 0


def _parts(plan: SourcePlan, events: Any, report: PushReport) -> Iterator[_Part]:
    """Yield the events that the door admits, some thousands at a time; the others go to the report."""
    part, size = _Part(), 0
    for index, payload in enumerate(payloads(events)):
        try:
            if isinstance(payload, Refused):
                raise payload
            row = admit_one(plan, payload)
            message = message_of(plan, payload)
        except RequestError as error:
            report.refused.append({"index": index, "code": error.code, "message": error.message})
            continue
        part.indexes.append(index)
        part.rows.append(row)
        part.messages.append(message)
        size += len(payload)
        if len(part.rows) == _PART_EVENTS or size >= _PART_BYTES:
            part.end = index + 1
            yield part
            part, size = _Part(), 0
    if part.rows:
        part.end = part.indexes[-1] + 1
        yield part


def message_of(plan: SourcePlan, payload: bytes) -> bytes:
    """Return an admitted event's JSON as its stream carries it. Raises Refused where its format cannot."""
    if not is_avro(plan):
        return payload
    try:
        message = encode(plan, _decode(payload))
    except RequestError as error:
        raise Refused("bad_type", error.message) from None
    if len(message) > plan.max_bytes:
        raise Refused("too_large", f"{len(message)} bytes are more than max_bytes: {plan.max_bytes}")
    return message


def _append(stream: StreamSource, part: _Part, report: PushReport) -> list[Place | None]:
    """Append a part; return each event's place, None where the broker refused it, which is reported.

    Raises PushInterrupted where events of this push, these or earlier ones, are or may be durable.
    """
    placed: list[Place | None]
    unacknowledged: list[int] = []
    failure: OperatorError | None = None
    try:
        # Without a key: the broker spreads them evenly, and no order of an entity's events is relied upon.
        placed = [*stream.append([(None, message) for message in part.messages])]
    except NotAcknowledged as error:
        placed, failure = [*error.placed], error
        for number, why in error.refused.items():
            refused = {"index": part.indexes[number], "code": "refused_by_broker", "message": why}
            report.refused.append(refused)
        unacknowledged = [
            index
            for number, index in enumerate(part.indexes)
            if placed[number] is None and number not in error.refused
        ]
    except OperatorError as error:
        if not report.accepted:
            raise
        placed, failure, unacknowledged = [None] * len(part.rows), error, list(part.indexes)
    report.accepted += [
        {"index": index, "partition": place[0], "sequence": place[1]}
        for index, place in zip(part.indexes, placed, strict=True)
        if place is not None
    ]
    if failure is not None and unacknowledged:
        report.refused.sort(key=lambda item: int(item["index"]))
        raise PushInterrupted(
            f"{failure.message} Of the push, {len(report.accepted)} events are durable, "
            f"{len(unacknowledged)} may be, and none was sent from index {part.end} on.",
            report,
            unacknowledged,
            part.end,
            where=failure.where,
            hint="Push those that are not durable again; a source with event_id: drops repeats.",
        ) from failure
    return placed


def admit_one(plan: SourcePlan, payload: bytes) -> dict[str, Any]:
    """Return an event as a typed row. Raises Refused with the reason code that a dead letter would have."""
    if len(payload) > plan.max_bytes:
        raise Refused("too_large", f"{len(payload)} bytes are more than max_bytes: {plan.max_bytes}")
    try:
        event = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("malformed", f"not JSON: {error}") from None
    except RecursionError:
        raise Refused("malformed", "the event is nested too deeply") from None
    if not isinstance(event, dict):
        raise Refused("malformed", "not a JSON object")
    epoch = ((plan.stream or {}).get("options") or {}).get("epoch")
    if epoch is not None:
        many, few = instants.EPOCH_TICKS[epoch]
        for f in plan.schema:
            if f.type.name == "timestamp" and isinstance(event.get(f.name), int):
                instant = event[f.name] * many // few
                if instants.ALWAYS <= instant <= instants.LAST:  # else it is refused as a number
                    event[f.name] = instants.to_datetime(instant)
    try:
        row = cast_row(event, plan.schema, plan.timezone)
    except RequestError as error:
        raise Refused("bad_type", error.message) from None
    t = instants.ALWAYS if plan.event_time is None else row[plan.event_time]
    if t is None:
        raise Refused("null_event_time", f"{plan.event_time} is null")
    now = instants.now() if plan.ingest_time is None else row[plan.ingest_time] or instants.now()
    if t > now + plan.future:
        ahead = instants.format_duration(plan.future)
        raise Refused("future", f"{plan.event_time} is more than {ahead} ahead")
    if any(row[name] is None for name in plan.event_id):
        raise Refused("null_event_id", f"{', '.join(plan.event_id)} is null")
    return row


class _Waiting:
    """What must have been applied until pushed events are servable: positions of their entities' shards.

    Each online set of the source has to have something that serves: OperatorError.
    """

    def __init__(self, store: FeatureStore, source: SourcePlan) -> None:
        self._store = store
        self._source = source
        live = store.catalog.live_sets()
        self._sets = [plan for plan in live if plan.source.name == source.name and plan.online]
        for plan in self._sets:
            store.catalog.serving(plan)
        self._places = [_Shards(plan) for plan in self._sets]
        # By set: the position that each partition must have reached in a shard.
        self._needed: list[dict[int, dict[str, int]]] = [{} for _ in self._sets]

    def add(self, rows: list[Row], placed: list[Place | None]) -> None:
        """Take rows, and their places where they were appended."""
        appended = [(row, place) for row, place in zip(rows, placed, strict=True) if place is not None]
        for shards, needed in zip(self._places, self._needed, strict=True):
            for row, (partition, sequence) in appended:
                for shard in shards.of(row):
                    positions = needed.setdefault(shard, {})
                    positions[partition] = max(positions.get(partition, 0), sequence + 1)

    def wait(self, deadline: float) -> bool:
        """Return whether all became servable in time; apply them here where nobody else does.

        A store that does not answer is asked again.
        """
        pause, longest = _PAUSE_SECONDS
        revisions: object = None
        local_at = min(time.monotonic() + _LOCAL_AFTER, (time.monotonic() + deadline) / 2)
        while True:
            try:
                found = [self._settle(number) for number in range(len(self._sets))]
                if not any(self._needed):
                    return True
                if found != revisions and revisions is not None:  # someone writes these shards
                    local_at = time.monotonic() + _LOCAL_AFTER
                revisions = found
                if local_at <= time.monotonic() < deadline:
                    self._apply_here(deadline)
                    local_at = time.monotonic() + _LOCAL_AFTER
            except OperatorError:
                pass  # the events are durable; whether they become servable in time is all that is open
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, longest)

    def _settle(self, number: int) -> list[bytes]:
        """Drop what a set has applied; return the revisions of the shards that were asked for."""
        needed = self._needed[number]
        if not needed:
            return []
        generation = self._store.catalog.serving(self._sets[number])  # may be another one by now
        shards = list(needed)
        states = self._store.environment.online.shards(generation, shards)
        for shard, state in zip(shards, states, strict=True):
            reached = decode_positions(state.positions)
            if all(reached.get(name, 0) >= end for name, end in needed[shard].items()):
                del needed[shard]
        return [state.revision for state in states]

    def _apply_here(self, deadline: float) -> None:
        """Apply what is needed in this thread, unless another one of this process is about it.

        What lies before it in the topic comes first, and may take longer than there is time.
        """
        if not _draining.acquire(blocking=False):
            return
        try:
            from featurestore.streaming import drain

            ends: dict[str, int] = {}
            for needed in self._needed:
                for positions in needed.values():
                    for name, end in positions.items():
                        ends[name] = max(ends.get(name, 0), end)
            drain(self._store, self._source.name, ends, before=deadline)
        finally:
            _draining.release()


class _Shards:
    """The shards of the entities that a row belongs to in a set, after its steps."""

    def __init__(self, plan: SetPlan) -> None:
        self._plan = plan
        self._steps = compile_each(plan.steps)
        self._kinds = [key.type for key in plan.keys]

    def of(self, row: Row) -> set[int]:
        """Return them; none where a step rejects the row, a key is null, or it is the batch half's."""
        source = self._plan.source
        if source.cutover is not None:
            known = None if source.ingest_time is None else row[source.ingest_time]
            if (instants.now() if known is None else known) < source.cutover:
                return set()
        try:
            made = self._steps(dict(row))
        except RowRejected:
            return set()
        found = set()
        for done in made:
            try:
                parts = [cast_key(done[key.column], key.type) for key in self._plan.keys]
            except ValueError:
                continue
            found.add(shard_of(encode_key(parts, self._kinds)))
        return found
