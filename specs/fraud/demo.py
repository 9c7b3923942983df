"""Run the whole line on this example: history, a stream, a training set, a model, a service, and a proof.

    python specs/fraud/demo.py                      what `make demo` runs
    python specs/fraud/demo.py --transactions 5000 --events 700 --keep /tmp/fraud

It works in a folder of its own, which it removes at the end unless `--keep` names one, and starts what it
needs: a Valkey, the Kafka broker inside librdkafka, and the HTTP service. Every step says what it does, the
command that does the same by hand, and how long it took. Exit status 1 when anything differs or fails.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

# `demo_parts` has no __init__.py: a script that imports its project's modules would be taken for a spec file.
from demo_parts.payments import as_frame, last_day, lateness, made_now, payments, streamed, takeovers
from demo_parts.scoring import fitted, quality, same, scores
from demo_parts.servers import assert_complete, broker, free_port, post, publish, service

from featurestore.errors import FeatureStoreError, OperatorError, RequestError
from featurestore.instants import format_instant, now
from featurestore.store import FeatureStore, FeatureVectorHandle
from featurestore_connectors.embedded import EmbeddedServer

if TYPE_CHECKING:
    import polars as pl

HERE = Path(__file__).resolve().parent
VECTOR = "transactions-fraud"
LOOK_UP = "/v1/online-features"
SOURCES = {"transactions": "payments", "events": "account_events"}  # by topic
TESTED = 0.25  # of the payments: the newest ones, which the model has not seen
SHOWN, LOOKUPS = 8, 200
STREAM_SECONDS = 90.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    for name in ("FEATURESTORE_PROFILE", "FEATURESTORE_TOKEN"):  # the user's, for other projects
        os.environ.pop(name, None)
    try:
        with ExitStack() as ends:
            return Demo(options, ends).run()
    except FeatureStoreError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: what was started is stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--transactions", type=int, default=100_000, help="distinct payments to generate")
    parser.add_argument("--events", type=int, default=14_000, help="distinct account events to generate")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--engine", choices=["bytewax", "local"], help="default, bytewax where it has a wheel"
    )
    parser.add_argument("--sample", type=int, default=1000, help="rows to verify, of each set and vector")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this empty folder, and leave it")
    return parser


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


class Demo:
    """The steps, in their order. What they start is stopped, newest first, when `ends` is closed."""

    def __init__(self, options: argparse.Namespace, ends: ExitStack) -> None:
        self._options = options
        self._ends = ends
        self._steps = 0
        self._differ = 0
        self._began = time.perf_counter()
        self._folder = _work_folder(options.keep, ends)
        self._data = self._folder / "data"

    def run(self) -> int:
        """Run every step; return 0 where all values are equal, else 1."""
        print(f"Card fraud, end to end, in {self._folder}")
        self._generate()
        address = self._start_servers()
        store = self._ends.enter_context(FeatureStore(self._folder))
        self._apply(store)
        self._ingest(store)
        self._stream(store, address)
        vector = store.vector(VECTOR)
        training = self._training_set(vector)
        model = self._train(training, vector.features)
        client = self._serve()
        attacks = self._push(client)
        self._look_up(vector, model, client, attacks)
        return self._verify(store)

    # Steps

    def _generate(self) -> None:
        options = self._options
        script = os.path.relpath(HERE / "generate.py")
        sizes = f"--transactions {options.transactions} --events {options.events} --seed {options.seed}"
        with self._step("Generate half a year of payments and account events", f"python {script} {sizes}"):
            command = [sys.executable, str(HERE / "generate.py"), *sizes.split()]
            command += ["--end", format_instant(now()), "--out", str(self._data)]
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                raise OperatorError(f"generate.py failed: {made.stderr.strip()}")
            self._say(*made.stdout.splitlines())
        for spec in HERE.glob("*.yaml"):
            shutil.copy(spec, self._folder)

    def _start_servers(self) -> str:
        """Return the broker's address."""
        with self._step("Start an embedded Valkey and the Kafka broker inside librdkafka"):
            valkey = self._ends.enter_context(EmbeddedServer(self._folder / ".featurestore/valkey"))
            address = self._ends.enter_context(broker())
            os.environ |= {"REDIS_URL": valkey.url, "KAFKA_BROKERS": address}
            self._say(f"REDIS_URL={valkey.url} KAFKA_BROKERS={address}: featurestore.yaml names them")
        return address

    def _apply(self, store: FeatureStore) -> None:
        with self._step("Apply what the spec files declare", "featurestore apply"):
            items = store.apply().items
            for kind in dict.fromkeys(item.kind for item in items):
                self._say(f"{kind}: {', '.join(item.name for item in items if item.kind == kind)}")

    def _ingest(self, store: FeatureStore) -> None:
        with self._step("Ingest the history, offline and then into Valkey", "featurestore ingest"):
            for source in SOURCES.values():
                with _progress(source) as advance:
                    reports = store.ingest(source, progress=advance)
                for report in reports:
                    rejected = "".join(f", {n:,} × {reason}" for reason, n in report.counts.items())
                    self._say(
                        f"{report.feature_set}: {report.rows_written:,} rows offline, "
                        f"{report.rows_online:,} of them online{rejected}"
                    )

    def _stream(self, store: FeatureStore, address: str) -> None:
        engine, why = _engine(self._options.engine)
        runner = {"bytewax": "Bytewax", "local": "the local runner"}[engine]
        title = f"Stream the last day through Kafka and {runner} into both stores"
        with self._step(title, f"featurestore stream --engine {engine}"):
            self._say(*why)
            sent = {}
            for topic, source in SOURCES.items():
                lines = (self._data / f"stream/{topic}.ndjson").read_bytes().splitlines()
                publish(address, topic, lines)
                sent[source] = len(lines)
                self._say(f"{topic}: {len(lines):,} published; {lateness(streamed(self._data, topic))}")
            for source, counts in _applied(store, engine, sent).items():
                self._say(f"{source}: {counts['records']:,} read, {counts['rejected']:,} rejected")
            for topic in SOURCES:
                assert_complete(address, topic)
            status = store.status()
            if waiting := sum(sum((*s["lag_offline"].values(), *s["lag_online"].values())) for s in status):
                raise OperatorError(f"{waiting} events of the stream were not applied.")
            for found in (s for s in status if s["generation"] is not None):
                self._say(
                    f"{found['feature_set']}: {found['rows']:,} rows offline; "
                    f"{found['entities']:,} entities online, {found['bytes_online'] / 1e6:.2f} MB; "
                    f"the newest row is {found['age']} old"
                )

    def _training_set(self, vector: FeatureVectorHandle) -> pl.DataFrame:
        command = f"featurestore get-offline {VECTOR} --rows data/payments.parquet --out training.parquet"
        with self._step("Build the training set: every payment as of its own instant", command):
            rows = payments(self._data)
            rows.write_parquet(self._data / "payments.parquet")
            began = time.perf_counter()
            made = vector.get_offline(rows)
            took = time.perf_counter() - began
            made.write_parquet(self._folder / "training.parquet")
            frame: pl.DataFrame = made.to_polars()
            if not frame["transaction_id"].equals(rows["transaction_id"]):
                raise OperatorError("The training set's rows are not the caller's.")
            self._say(
                f"{rows.height:,} payments in, the same {frame.height:,} out, in their order, with "
                f"{len(made.features)} features and '{made.label}', in {took:.2f} s"
            )
            newest = (
                rows["timestamp"].to_physical().to_numpy().max() - timedelta(days=1) // timedelta.resolution
            )
            places = np.flatnonzero(rows["timestamp"].to_physical().to_numpy() >= newest)
            known = vector.get_offline(rows[places], as_known=True).to_polars()
            pairs = zip(frame[places].rows(), known.select(frame.columns).rows(), strict=True)
            self._say(
                f"with as_known=True {sum(a != b for a, b in pairs):,} of the last day's {len(places):,} "
                "payments have other features: without the rows that came late"
            )
        return frame

    def _train(self, training: pl.DataFrame, features: list[str]) -> Any:
        """Return a classifier that has learned from the older payments."""
        with self._step("Train a small classifier (scikit-learn) on the older payments"):
            ordered = training.sort("timestamp", maintain_order=True)
            old, new = ordered[: -round(TESTED * ordered.height)], ordered[-round(TESTED * ordered.height) :]
            frauds = int(new["label"].sum())
            self._say(
                f"{old.height:,} payments before {new['timestamp'][0]:%Y-%m-%d} to learn from, "
                f"{new.height:,} since to score, {frauds:,} of them frauds"
            )
            model = fitted(old, features)
            if 0 < frauds < new.height:
                own = [name for name in features if name in ("amount", "age", "gender_F", "gender_M")]
                self._say(
                    f"score: {quality(model, new, features)}",
                    f"the payment's own columns alone: {quality(fitted(old, own), new, own)}",
                    f"by chance: average precision {frauds / new.height:.3f}, ROC AUC 0.500",
                )
        return model

    def _serve(self) -> http.client.HTTPConnection:
        """Return a connection to the service, which is ready."""
        port = free_port()
        with self._step("Start the HTTP service", f"featurestore serve --port {port}"):
            self._ends.enter_context(service(self._folder, port))
            self._say(f"http://127.0.0.1:{port} is ready")
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._ends.callback(client.close)
        return client

    def _push(self, client: http.client.HTTPConnection) -> list[dict[str, Any]]:
        """Return the newest frauds, whose customers have now logged in from a new device, and so on."""
        path = "/v1/sources/account_events/events?wait=30s"
        command = f"curl 'localhost:{client.port}{path}' -d '[{{…}}]'"
        with self._step("Push account events over HTTP, and wait until vectors have them", command):
            known = payments(self._data)
            attacks = (
                known.filter(fraud=1).sort("timestamp").unique("source", keep="last", maintain_order=True)
            )
            rows = attacks.tail(SHOWN // 3).to_dicts()
            events = takeovers([row["source"] for row in rows])
            answer = post(client, path, events)
            if len(answer["accepted"]) != len(events) or not answer["servable"]:
                raise OperatorError(f"Not all pushed events are servable: {answer}")
            self._say(f"{len(events)} accepted and servable: a login from a new device, then a new password")
        return rows

    def _look_up(
        self,
        vector: FeatureVectorHandle,
        model: Any,
        client: http.client.HTTPConnection,
        attacks: list[dict[str, Any]],
    ) -> None:
        command = f"""curl localhost:{client.port}{LOOK_UP} -d '{{"vector": "{VECTOR}", "rows": [{{…}}]}}'"""
        with self._step("Look vectors up over HTTP for payments made now, and score them", command):
            today = last_day(self._data).to_dicts()
            honest = list({row["source"]: row for row in today if not row["fraud"]}.values())
            fresh = [
                made_now(row, number) for number, row in enumerate(honest[len(attacks) - SHOWN :] + attacks)
            ]
            found = _vectors(client, fresh, vector.features)
            for row, values, score in zip(fresh, found, scores(model, found), strict=True):
                named = dict(zip(vector.features, values, strict=True))
                self._say(
                    f"{row['source']:<12}{row['amount']:>9.2f}  {row['category']:<22}"
                    f"{named['amount_sum_24h']:>9.2f} in 24h  {named['changes_count_24h']} changes in 24h"
                    f"   score {score:.3f}"
                )
            trained = vector.get_offline(as_frame(fresh)).to_polars().select(vector.features).rows()
            pairs = [
                pair
                for expected, got in zip(trained, found, strict=True)
                for pair in zip(expected, got, strict=True)
            ]
            self._differ += sum(not same(expected, got) for expected, got in pairs)
            self._say(f"the same as a training set: {len(pairs):,} values compared, {self._differ:,} differ")
            milliseconds = []
            for number in range(LOOKUPS):
                row = made_now(today[number % len(today)], SHOWN + number)
                began = time.perf_counter()
                _vectors(client, [row], vector.features)
                milliseconds.append((time.perf_counter() - began) * 1000)
            p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
            self._say(f"{LOOKUPS} look-ups in a row: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")

    def _verify(self, store: FeatureStore) -> int:
        with self._step("Verify: the values in Valkey against the offline ones", "featurestore verify"):
            result = store.verify(sample=self._options.sample)
            self._say(
                f"{result.entities:,} entities, {result.instants:,} instants: events, windows' edges, ± 1 µs",
                f"largest deviation of a float: {result.largest_deviation:.1g}",
                *(f"skipped: {reason}" for reason in result.skipped),
                *(
                    f"{d.vector}, {d.row} at {d.instant}: {d.feature}: {d.offline!r}, online {d.online!r}"
                    for d in result.differences
                ),
            )
        print(f"\nIt took {time.perf_counter() - self._began:.0f} s.")
        if self._options.keep:
            print(f"What it made is in {self._folder}; its servers are stopped.")
        print(result, flush=True)
        return 0 if result.compared and not (result.differ or result.skipped or self._differ) else 1

    # Words

    @contextmanager
    def _step(self, title: str, command: str | None = None) -> Iterator[None]:
        """Print the title, the command that does the same, and at the end the time that it took."""
        self._steps += 1
        print(f"\n{self._steps:>2}. {title}", flush=True)
        if command is not None:
            self._say(f"$ {command}")
        began = time.perf_counter()
        yield
        self._say(f"{time.perf_counter() - began:.1f} s")

    def _say(self, *lines: str) -> None:
        for line in lines:
            print(f"    {line}", flush=True)


def _work_folder(keep: Path | None, ends: ExitStack) -> Path:
    """Return an empty folder: the one to keep, or one that goes at the end. Raises RequestError."""
    if keep is None:
        return Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="featurestore-demo-"))).resolve()
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise RequestError(f"{keep} is no empty folder.", hint="Name another one after --keep.")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def _engine(asked: str | None) -> tuple[str, list[str]]:
    """Return the stream engine, and why it is not Bytewax where nobody asked for another."""
    if asked is not None or importlib.util.find_spec("bytewax") is not None:
        return asked or "bytewax", []
    version = ".".join(map(str, sys.version_info[:2]))
    return "local", [f"Bytewax is not installed: it has wheels up to Python 3.12, this is {version}"]


def _applied(store: FeatureStore, engine: str, sent: dict[str, int]) -> dict[str, dict[str, int]]:
    """Run the streams until all that was sent is read and committed; return their counts."""
    stop = Event()
    deadline = time.monotonic() + STREAM_SECONDS

    def report(counts: dict[str, dict[str, int]]) -> None:
        whole = all(counts[source].get("records", 0) >= number for source, number in sent.items())
        if whole or time.monotonic() > deadline:
            stop.set()

    with _deferred(stop):
        counts = store.stream(engine=engine, stop=stop, report=report)
    for source, number in sent.items():
        if counts[source].get("records", 0) < number:
            raise OperatorError(f"The stream of '{source}' is not read after {STREAM_SECONDS:.0f} s.")
    return counts


@contextmanager
def _deferred(stop: Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set `stop`; what they do otherwise follows at the end, when all is at rest."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _vectors(
    client: http.client.HTTPConnection, rows: list[dict[str, Any]], features: list[str]
) -> list[list[Any]]:
    """Return the rows' vectors, from the service."""
    answer = post(client, LOOK_UP, {"vector": VECTOR, "rows": rows})
    for error in filter(None, answer.get("errors", [])):
        raise OperatorError(f"A payment has no vector: {error}")
    if answer["columns"] != features:
        raise OperatorError(f"The service has other columns: {', '.join(answer['columns'])}.")
    found: list[list[Any]] = answer["rows"]
    return found


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int], None]]:
    """Yield what counts rows on a terminal; elsewhere nothing is shown."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,.0f} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"  {name}", total=None)
        yield lambda rows: bar.advance(task, rows)


if __name__ == "__main__":
    sys.exit(main())
