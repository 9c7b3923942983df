"""A client of a feature store that is served over HTTP: what `FeatureStore.connect` returns.

Vectors travel as Arrow, so that they are those of a store at hand to the bit, NaN and wide integers included.
"""

from __future__ import annotations

import http.client
import select
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from featurestore import errors
from featurestore.errors import OperatorError, RequestError, StoreUnavailable
from featurestore.instants import SECOND, format_duration, format_instant, parse_instant
from featurestore.online.reader import VectorResult
from featurestore.pushing import PushReport
from featurestore.types import DataType, Field

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

    def push(self, source: str, events: Iterable[Any], wait: float | None = None) -> PushReport:
        """Append events (dictionaries or JSON bytes) to a source's stream; return when they are durable.

        With `wait` (seconds), return once they are servable, or the time is over.
        """
        lines = [event if isinstance(event, bytes) else msgspec.json.encode(event) for event in events]
        path = f"/v1/sources/{quote(source, safe='')}/events"
        if wait is not None:
            path += "?" + urlencode({"wait": format_duration(int(wait * SECOND))})
        if not lines:
            return PushReport(servable=None if wait is None else True)
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
        if response.status >= 300 and not (response.status == 422 and b'"accepted"' in answer):
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
        kind = _KINDS.get(code)
        if kind is None and status == 404:
            kind = errors.UnknownName
        elif kind is None:
            kind = StoreUnavailable if status == 503 else OperatorError if status >= 500 else RequestError
        error = kind(message, where=told.get("where"), hint=told.get("hint"))
        error.code = code
        raise error


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
        Field(name, DataType.parse(text)) for name, text in zip(table.column_names, types, strict=False)
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
