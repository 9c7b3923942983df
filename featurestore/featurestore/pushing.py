"""Push: events into a source's stream, checked at the door, acknowledged when durable (DESIGN 3.14)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore import instants
from featurestore.beginning import begin_before_push
from featurestore.errors import RequestError
from featurestore.expressions import RowRejected
from featurestore.keys import cast_key, encode_key, shard_of
from featurestore.online.requests import cast_row
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan, SourcePlan
from featurestore.rows.identity import event_id
from featurestore.steps.rows import compile_each

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_LOCAL_AFTER = 0.5  # seconds without progress after which this process applies the events itself
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode  # decimals to the last digit


@dataclass
class PushReport:
    """What became of pushed events. `servable` is None unless asked for with `wait`."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    servable: bool | None = None


def push(store: FeatureStore, source: str, events: Iterable[Any], wait: float | None) -> PushReport:
    """Append the events that the source's schema admits; see `FeatureStore.push`."""
    plan = store.catalog.source(source)
    stream = store.environment.stream(plan)
    begin_before_push(store.environment, plan)
    report = PushReport()
    rows, payloads = [], []
    for index, event in enumerate(events):
        try:
            payload = _payload(event)
            rows.append(admit_one(plan, payload))
            payloads.append(payload)
        except RequestError as error:
            report.refused.append({"index": index, "code": error.code, "message": error.message})
    appended = stream.append([(None, payload) for payload in payloads]) if payloads else []
    report.accepted = [{"partition": partition, "sequence": sequence} for partition, sequence in appended]
    if wait is not None:
        report.servable = _wait(store, source, rows, appended, wait)
    return report


def _payload(event: Any) -> bytes:
    """Return an event as JSON. Raises Refused where it has values that JSON cannot carry."""
    if isinstance(event, bytes):
        return event
    if isinstance(event, dict):
        for name, value in event.items():
            if (unsayable := _not_finite(value)) is not None:
                raise Refused("malformed", f"{name}: JSON has no {unsayable}; send null")
    try:
        return _encode(event)
    except (TypeError, ValueError) as error:
        raise Refused("malformed", f"no JSON: {error}") from None


def _not_finite(value: Any) -> float | None:
    """Return a NaN or an infinity that a value is or holds; None where there is none."""
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _not_finite(item)) is not None), None)
    return value if isinstance(value, float) and not math.isfinite(value) else None


class Refused(RequestError):
    """An event that the door does not admit; `code` is the dead letter's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def admit_one(plan: SourcePlan, payload: bytes) -> dict[str, Any]:
    """Return an event as a typed row. Raises Refused with the reason code that a dead letter would have."""
    if len(payload) > plan.max_bytes:
        raise Refused("too_large", f"{len(payload)} bytes are more than max_bytes: {plan.max_bytes}")
    try:
        event = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("malformed", f"not JSON: {error}") from None
    if not isinstance(event, dict):
        raise Refused("malformed", "not a JSON object")
    epoch = ((plan.stream or {}).get("options") or {}).get("epoch")
    if epoch is not None:
        many, few = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}[epoch]
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
    if plan.event_id:
        kinds = {f.name: f.type for f in plan.schema}
        if event_id([row[name] for name in plan.event_id], [kinds[name] for name in plan.event_id]) is None:
            raise Refused("null_event_id", f"{', '.join(plan.event_id)} is null")
    return row


def _wait(
    store: FeatureStore,
    source: str,
    rows: Sequence[dict[str, Any]],
    appended: Sequence[tuple[str, int]],
    wait: float,
) -> bool:
    """Return whether all events became servable in time; apply them here if nobody else does."""
    needed: list[tuple[OnlineWriter, int, str, int]] = []
    for plan in store.catalog.live_sets():
        if plan.source.name == source and plan.online:
            writer = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
            for shard, row, (partition, sequence) in _shards(plan, rows, appended):
                del row
                needed.append((writer, shard, partition, sequence))
    deadline = time.monotonic() + wait
    local_at = time.monotonic() + min(_LOCAL_AFTER, wait / 2)
    while needed:
        states: dict[int, dict[int, dict[str, int]]] = {}
        needed = [
            item
            for item in needed
            if states.setdefault(id(item[0]), item[0].positions())[item[1]].get(item[2], 0) <= item[3]
        ]
        if not needed or time.monotonic() >= deadline:
            break
        if time.monotonic() >= local_at:
            from featurestore.streaming import drain

            ends = {partition: sequence + 1 for _, _, partition, sequence in needed}
            for _, _, partition, sequence in needed:
                ends[partition] = max(ends[partition], sequence + 1)
            drain(store, source, ends)
            local_at = deadline
        else:
            time.sleep(0.01)
    return not needed


def _shards(
    plan: SetPlan, rows: Sequence[dict[str, Any]], appended: Sequence[tuple[str, int]]
) -> Iterable[tuple[int, dict[str, Any], tuple[str, int]]]:
    """Yield the shard of each row's entity, with its place; rows that no entity gets are left out."""
    steps = compile_each(plan.steps)
    kinds = [key.type for key in plan.keys]
    for row, place in zip(rows, appended, strict=True):
        try:
            made = steps(dict(row))
        except RowRejected:
            continue
        for done in made:
            try:
                parts = [cast_key(done[key.column], key.type) for key in plan.keys]
            except ValueError:
                continue
            yield shard_of(encode_key(parts, kinds)), done, place
