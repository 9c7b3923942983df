"""What the demo starts: the broker inside librdkafka, and the HTTP service in a process of its own."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from featurestore.errors import OperatorError

_SECONDS = 15.0
_START_SECONDS = 60.0
_QUIET = {"log_level": 3}  # errors only


@contextmanager
def broker() -> Iterator[str]:
    """Yield the address of a broker inside librdkafka: it lives as long as the producer that holds it."""
    holder = Producer({"test.mock.num.brokers": 1, **_QUIET})
    [found] = holder.list_topics(timeout=_SECONDS).brokers.values()
    yield f"{found.host}:{found.port}"
    holder.purge()


def publish(address: str, topic: str, lines: Sequence[bytes]) -> None:
    """Write the lines to a topic. Raises OperatorError where the broker does not take them all."""
    producer = Producer({"bootstrap.servers": address, **_QUIET})
    for line in lines:
        producer.produce(topic, line)
    if left := producer.flush(_SECONDS):
        raise OperatorError(f"The broker did not take {left} events.", where=topic)


def assert_complete(address: str, topic: str) -> None:
    """Raise OperatorError where the broker has dropped events: this one keeps 5 MB of each partition."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "demo", **_QUIET})
    try:
        for number in consumer.list_topics(topic, timeout=_SECONDS).topics[topic].partitions:
            low, _ = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_SECONDS)
            if low:
                raise OperatorError(f"The broker dropped the events before {low}.", where=f"{topic}/{number}")
    finally:
        consumer.close()


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def service(project: Path, port: int) -> Iterator[None]:
    """Run `featurestore serve`, from when it is ready. Raises OperatorError where it never is."""
    log = project / ".featurestore/serve.log"
    command = [sys.executable, "-m", "featurestore.cli", "serve", "-C", str(project), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends the service
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise OperatorError(f"The service did not start: {' '.join(lines[-3:])}", where=str(log))
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def post(client: http.client.HTTPConnection, path: str, body: object) -> dict[str, Any]:
    """Return the service's answer to a JSON body. Raises OperatorError where it is an error."""
    client.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = client.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        raise OperatorError(f"The service answered {response.status}: {answer}", where=path)
    return answer


def _is_ready(port: int) -> bool:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        client.request("GET", "/readyz")
        return client.getresponse().status == 200
    return False
