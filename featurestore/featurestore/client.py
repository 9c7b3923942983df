"""A client of a feature store that is served over HTTP: what `FeatureStore.connect` returns.

Vectors travel as Arrow, so that they are those of a store at hand to the bit, NaN and wide integers included.
"""

from __future__ import annotations

import http.client
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from featurestore import errors
from featurestore.errors import OperatorError, PushInterrupted, RequestError, StoreUnavailable
from featurestore.events import Refused, payloads
from featurestore.instants import SECOND, format_duration, format_instant, parse_instant
from featurestore.online.reader import VectorResult
from featurestore.pushing import PushReport
from featurestore.types import DataType, Field

_PART_EVENTS = 5_000
_PART_BYTES = 4 * 1024 * 1024
_ARROW = "application/vnd.apache.arrow.stream"
_KINDS: dict[str, type[errors.FeatureStoreError]] = {
    kind.code: kind
    for kind in (errors.SpecError, errors.RequestError, errors.HistoryError, errors.UnknownName)
} | {"operator": OperatorError, "unavailable": StoreUnavailable}


class RemoteFeatureStore:
    """Feature vectors from, and events to, the service at `url`. Safe to use from several threads.

    `token` is the service's, `timeout` that of an answer, in seconds. Each thread keeps one connection open.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError(f"'{url}' is no address of a service.", hint="Write http://host:port.")
        self._url = url
        self._https = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._local = threading.local()

    def get_online_features(
        self, name: str | Sequence[str], rows: Sequence[Mapping[str, Any]], as_of: Any = None
    ) -> VectorResult:
        """Return the vectors of `rows` now, as of one instant, or of one per row.

        `name` is a vector, or a list of `set.feature`. Raises what a store at hand raises;
        StoreUnavailable where the service does not answer.
        """
        asked = {
            "vector" if isinstance(name, str) else "features": name,
            "rows": rows,
            "as_of": [_text(t) for t in as_of] if isinstance(as_of, list | tuple) else _text(as_of),
        }
        body = msgspec.json.encode(asked, enc_hook=_plain)
        return _result(self._ask("POST", "/v1/online-features", body, accept=_ARROW))

    def push(self, source: str, events: Any, wait: float | None = None) -> PushReport:
        """Append events to a source's stream; return once all of them are durable, with each one's place.

        `events` is what `FeatureStore.push` takes. They travel in requests of some thousands. With `wait`
        (seconds), return once they are servable, or the time is over. Raises PushInterrupted, which tells
        what is durable, where a request fails after others did not, or no answer to one comes.
        """
        report = PushReport(servable=None if wait is None else True)
        deadline = None if wait is None else time.monotonic() + wait
        for indexes, lines, end in _parts(events, report):
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                told = self._push(source, lines, left)
            except PushInterrupted as error:
                _add(report, error.report, indexes)
                lost = [indexes[number] for number in error.unacknowledged]
                unsent = error.unsent_from
                raise _interrupted(error, report, lost, [*indexes, end][unsent]) from error
            except (RequestError, OperatorError) as error:
                if not report.accepted and not isinstance(error, StoreUnavailable):
                    raise
                raise _interrupted(error, report, indexes, end) from error
            _add(report, told, indexes)
            report.servable = None if wait is None else bool(report.servable and told.servable)
        report.refused.sort(key=lambda item: int(item["index"]))
        return report

    def _push(self, source: str, lines: Sequence[bytes], wait: float | None) -> PushReport:
        path = f"/v1/sources/{quote(source, safe='')}/events"
        if wait is not None:
            path += "?" + urlencode({"wait": format_duration(int(wait * SECOND))})
        body = b"\n".join(line.replace(b"\n", b" ").strip() or b"null" for line in lines)
        answer = self._ask("POST", path, body, content="application/x-ndjson", patience=wait or 0.0)
        return msgspec.json.decode(answer, type=PushReport)

    def feature_sets(self) -> list[dict[str, Any]]:
        """Return descriptions of the applied feature sets."""
        found: dict[str, list[dict[str, Any]]] = msgspec.json.decode(self._ask("GET", "/v1/feature-sets"))
        return found["feature_sets"]

    def feature_vectors(self) -> list[dict[str, Any]]:
        """Return descriptions of the applied feature vectors."""
        found: dict[str, list[dict[str, Any]]] = msgspec.json.decode(self._ask("GET", "/v1/feature-vectors"))
        return found["feature_vectors"]

    def close(self) -> None:
        """Close this thread's connection."""
        connection = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def __enter__(self) -> RemoteFeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content: str = "application/json",
        accept: str = "application/json",
        patience: float = 0.0,
    ) -> bytes:
        """Return the body of the answer to one request, which is sent once only."""
        headers = self._headers | {"Content-Type": content, "Accept": accept}
        try:
            connection = self._connection(self._timeout + patience)
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = str(error) or type(error).__name__
            raise StoreUnavailable(
                f"The service does not answer: {why}.",
                where=self._url,
                hint="Check that `featurestore serve` runs there.",
            ) from error
        if response.status >= 300 and not (response.status == 422 and b'"refused":' in answer):
            self._raise(response.status, answer)
        return answer

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        """Return this thread's connection; a new one where the service has closed the old one."""
        found: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if found is None:
            kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
            found = self._local.connection = kind(self._host, self._port, timeout=timeout)
        elif found.sock is not None and select.select([found.sock], [], [], 0)[0]:
            found.close()  # nothing was asked, so what can be read is the end; it connects again
        found.timeout = timeout  # of connecting again
        if found.sock is not None:
            found.sock.settimeout(timeout)
        return found

    def _raise(self, status: int, answer: bytes) -> NoReturn:
        """Raise the error that an answer tells, of the class that it was there."""
        try:
            told = msgspec.json.decode(answer, type=dict[str, Any])["error"]
            code, message = str(told["code"]), str(told["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            raise StoreUnavailable(
                f"The service answers with status {status} and no error of a feature store.",
                where=self._url,
                hint="Check that the address is that of `featurestore serve`.",
            ) from None
        if code == PushInterrupted.code:
            body = msgspec.json.decode(answer)
            raise PushInterrupted(
                message,
                PushReport(body["accepted"], body["refused"]),
                body["unacknowledged"],
                body["unsent_from"],
                where=told.get("where"),
                hint=told.get("hint"),
            )
        kind = _KINDS.get(code)
        if kind is None and status == 404:
            kind = errors.UnknownName
        elif kind is None:
            kind = StoreUnavailable if status == 503 else OperatorError if status >= 500 else RequestError
        error = kind(message, where=told.get("where"), hint=told.get("hint"))
        error.code = code
        raise error


def _parts(events: Any, report: PushReport) -> Iterator[tuple[list[int], list[bytes], int]]:
    """Yield events with their indexes, some thousands at a time, and the index of the first one after them.

    What JSON cannot say goes to the report.
    """
    indexes: list[int] = []
    lines: list[bytes] = []
    size = 0
    for index, payload in enumerate(payloads(events)):
        if isinstance(payload, Refused):
            report.refused.append({"index": index, "code": payload.code, "message": payload.message})
            continue
        if lines and (len(lines) == _PART_EVENTS or size + len(payload) > _PART_BYTES):
            yield indexes, lines, index
            indexes, lines, size = [], [], 0
        indexes.append(index)
        lines.append(payload)
        size += len(payload)
    if lines:
        yield indexes, lines, indexes[-1] + 1


def _add(report: PushReport, told: PushReport, indexes: Sequence[int]) -> None:
    """Add what became of one request's events, under their indexes in the push."""
    report.accepted += [{**item, "index": indexes[item["index"]]} for item in told.accepted]
    report.refused += [{**item, "index": indexes[item["index"]]} for item in told.refused]


def _interrupted(
    error: errors.FeatureStoreError, report: PushReport, unacknowledged: Sequence[int], end: int
) -> PushInterrupted:
    """Return the error of a push of which requests after this one were not sent."""
    report.refused.sort(key=lambda item: int(item["index"]))
    return PushInterrupted(
        f"{error.message} Of the push, {len(report.accepted)} events are durable, {len(unacknowledged)} may "
        f"be, and none was sent from index {end} on.",
        report,
        unacknowledged,
        end,
        where=error.where,
        hint="Push those that are not durable again; a source with event_id: drops repeats.",
    )


def _text(as_of: Any) -> str | None:
    """Return the text of an instant as users write it. Raises RequestError."""
    if as_of is None:
        return None
    try:
        return format_instant(parse_instant(as_of))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RequestError(f"{as_of!r} is no instant: {error}") from None


def _plain(value: Any) -> Any:
    """Return a value of numpy's, or another that has no form in JSON, as one that has."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise RequestError(f"A row's value of {type(value).__name__} cannot be sent.")


def _result(answer: bytes) -> VectorResult:
    """Return the result that an Arrow answer holds; see featurestore_serving's answers."""
    import pyarrow as pa

    table = pa.ipc.open_stream(answer).read_all()
    told = table.schema.metadata
    types = msgspec.json.decode(told[b"types"], type=list[str])
    columns = tuple(
        Field(name, DataType.parse_feature(text))
        for name, text in zip(table.column_names, types, strict=False)
    )
    values = [_values(table.column(i), f.type) for i, f in enumerate(columns)]
    status, as_of, error = (table.column(i) for i in range(len(columns), len(columns) + 3))
    return VectorResult(
        told[b"vector"].decode(),
        columns,
        [list(row) for row in zip(*values, strict=True)],
        status.to_pylist(),
        as_of.cast(pa.int64()).to_pylist(),
        int(told[b"now"]),
        error.to_pylist(),
    )


def _values(column: Any, kind: DataType) -> list[Any]:
    """Return a column of the answer as row values."""
    if kind.key is None or kind.item is None:
        items: list[Any] = column.cast(_stored(kind)).to_pylist()
        return items
    entries = column.combine_chunks()
    keys = _values(entries.keys, kind.key)
    counts = _values(entries.items, kind.item)
    ends = entries.offsets.to_pylist()
    return [
        dict(zip(keys[low:high], counts[low:high], strict=True)) if there else None
        for low, high, there in zip(ends, ends[1:], entries.is_valid().to_pylist(), strict=False)
    ]


def _stored(kind: DataType) -> Any:
    """Return the Arrow type of a type's row values: instants are microseconds, dates days."""
    import pyarrow as pa

    if kind.name == "list" and kind.item is not None:
        return pa.list_(_stored(kind.item))
    return {"timestamp": pa.int64(), "date": pa.int32()}.get(kind.name) or kind.arrow()
