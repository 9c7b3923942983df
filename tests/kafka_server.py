"""A real Apache Kafka: one KRaft node on loopback, from Maven Central, on this machine's Java.

    python tests/kafka_server.py          what `make kafka` runs: one node until interrupted
    server = KafkaServer(folder).start(); server.kill(); server.start()

The jars are kept outside the checkout: `$FEATURESTORE_CACHE`, or `~/.cache/featurestore`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

VERSION = "4.1.2"
_JAVA = 17
_MAVEN_SECONDS = 300.0
_START_SECONDS = 60.0
_HEAP = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_ARTIFACTS = {"org.apache.kafka:kafka_2.13": VERSION, "org.slf4j:slf4j-simple": "1.7.36"}


class KafkaUnavailable(Exception):
    """There is no Kafka to be had here; the text says why."""


def jars() -> Path:
    """Return the folder of Kafka's jars, fetched by Maven the first time. Raises KafkaUnavailable."""
    _check_java()
    cache = Path(os.environ.get("FEATURESTORE_CACHE", Path.home() / ".cache" / "featurestore"))
    ready = cache / f"kafka-{VERSION}"
    if ready.is_dir():
        return ready
    if shutil.which("mvn") is None:
        raise KafkaUnavailable("no mvn on the PATH to fetch Apache Kafka with")
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="kafka-", dir=cache))
    try:
        (work / "pom.xml").write_text(_pom())
        done = subprocess.run(
            ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=_MAVEN_SECONDS,
            check=False,
        )
        if done.returncode:
            raise KafkaUnavailable(f"mvn could not fetch Apache Kafka {VERSION}: {_first_line(done.stdout)}")
        if not ready.exists():  # another process may have been faster
            (work / "jars").rename(ready)
    except subprocess.TimeoutExpired:
        raise KafkaUnavailable(f"mvn did not fetch Apache Kafka in {_MAVEN_SECONDS:.0f} s") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ready


class KafkaServer:
    """One node, broker and controller. It keeps its port and its data over `kill` and `start`.

    `properties` are added to the node's own; `listener` is the clients' security protocol. Raises
    KafkaUnavailable where there is no Java, no Maven, or the node does not start.
    """

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, str] | None = None,
        *,
        listener: str = "PLAINTEXT",
        port: int | None = None,
    ) -> None:
        self._jars = jars()
        self._folder = folder
        self._port = port or _free_port()
        self._controller = _free_port()
        self._listener = listener
        self._properties = dict(properties or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The clients' host:port."""
        return f"127.0.0.1:{self._port}"

    @property
    def data(self) -> Path:
        """The folder with a folder of segments per partition."""
        return self._folder / "data"

    @property
    def pid(self) -> int:
        """The process's id, for signals."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> KafkaServer:
        """Return this node once it serves; it was formatted when it first started."""
        if not (self._folder / "data" / "meta.properties").exists():
            self._format()
        log = self._log.open("ab")
        before = self._log.stat().st_size
        self._process = subprocess.Popen(
            self._java("kafka.Kafka", str(self._folder / "server.properties")), stdout=log, stderr=log
        )
        log.close()
        weakref.finalize(self, _end, self._process)
        deadline = time.monotonic() + _START_SECONDS
        while b"Kafka Server started" not in self._log.read_bytes()[before:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise KafkaUnavailable(f"Kafka did not start; its log is {self._log}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """End the process in order."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_SECONDS)
            self._process = None

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _java(self, main: str, *arguments: str) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.showDateTime=true"
        return ["java", *_HEAP, quiet, "-cp", f"{self._jars}/*", main, *arguments]

    def _format(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": f"CLIENTS://{self.address},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"CLIENTS://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,CLIENTS:{self._listener}",
            "log.dirs": str(self._folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "2000",  # a node that was killed may come back so soon
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",
            "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
            **self._properties,
        }
        path = self._folder / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        cluster = "k" + secrets.token_urlsafe(16)[1:]  # one that begins with - would be taken for an option
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(path)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise KafkaUnavailable(
                f"Kafka's storage could not be formatted: {_first_line(done.stderr + done.stdout)}"
            )


def _check_java() -> None:
    if shutil.which("java") is None:
        raise KafkaUnavailable("no java on the PATH for Apache Kafka")
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    if found is None or int(found[1]) < _JAVA:
        raise KafkaUnavailable(f"Apache Kafka {VERSION} needs Java {_JAVA}; java says: {_first_line(told)}")


def _pom() -> str:
    needed = ""
    for artifact, version in _ARTIFACTS.items():
        group, name = artifact.split(":")
        needed += (
            f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
            f"<version>{escape(version)}</version></dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version>"
        f"<dependencies>{needed}</dependencies></project>"
    )


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "it said nothing")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def main() -> None:
    """Run one node on port 9092, or the one that is given, until interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9092
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        server = KafkaServer(Path(folder), port=port).start()
        print(f"Apache Kafka {VERSION} at {server.address}; Ctrl-C ends it, and its data.", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            signal.pause()
        except KeyboardInterrupt:
            server.stop()


if __name__ == "__main__":
    main()
