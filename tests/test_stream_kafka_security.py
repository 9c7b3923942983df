"""SASL and TLS reach every client; what brokers refuse is said within seconds; secrets appear nowhere."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import StartKafka
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.errors import OperatorError, SpecError

pytestmark = pytest.mark.kafka
_LOGGER = logging.getLogger("tests.kafka")
SECRET = "correct-horse-battery"
SPECS = """
kind: Entity
name: customer
---
kind: Source
name: events
event_time: at
schema: {customer: string, at: timestamp, amount: int64}
stream: {topic: events}
---
kind: FeatureSet
name: spending
entities: [customer]
source: events
history: all
aggregations:
  - {column: amount, functions: [sum], windows: [lifetime]}
"""
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


def sasl(mechanism: str, user: str = "alice", password: str = SECRET) -> dict[str, str]:
    """Return what a project writes under `options:`."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": mechanism,
        "sasl.username": user,
        "sasl.password": password,
    }


@pytest.fixture(scope="module")
def sasl_broker(start_kafka: StartKafka) -> str:
    """A broker that knows alice by PLAIN and by SCRAM, and has the topic."""
    users = f'user_admin="{SECRET}" user_alice="{SECRET}"'
    server = start_kafka(
        listener="SASL_PLAINTEXT",
        properties={
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.clients.plain.sasl.jaas.config": (
                f'{PLAIN} required username="admin" password="{SECRET}" {users};'
            ),
            "listener.name.clients.scram-sha-512.sasl.jaas.config": f"{SCRAM} required;",
        },
    )
    admin = AdminClient({"bootstrap.servers": server.address, **sasl("PLAIN", "admin")}, logger=_LOGGER)
    admin.create_topics([NewTopic("events", 2, 1)])["events"].result(15)
    known = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    upsertion = UserScramCredentialUpsertion("alice", known, SECRET.encode())
    admin.alter_user_scram_credentials([upsertion])["alice"].result(15)
    return server.address


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA's certificate, and a broker's certificate and key that it signed."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=test {name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=broker"),
        *("-keyout", "broker.key", "-out", "broker.csr"),
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(
        *("x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "broker.pem"),
    )
    both = (folder / "broker.key").read_text() + (folder / "broker.pem").read_text()
    (folder / "keystore.pem").write_text(both)
    return folder


@pytest.fixture(scope="module")
def tls_broker(start_kafka: StartKafka, certificates: Path) -> str:
    """A broker that speaks TLS alone, and has the topic."""
    server = start_kafka(
        listener="SSL",
        properties={
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "keystore.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates / "ca.pem"),
        },
    )
    admin = AdminClient({"bootstrap.servers": server.address, **tls(certificates)}, logger=_LOGGER)
    admin.create_topics([NewTopic("events", 2, 1)])["events"].result(15)
    return server.address


def tls(certificates: Path, authority: str = "ca") -> dict[str, str]:
    return {"security.protocol": "SSL", "ssl.ca.location": str(certificates / f"{authority}.pem")}


def make(root: Path, brokers: str, options: dict[str, Any], specs: str = SPECS) -> Path:
    config = {
        "project": "shop",
        "online": {"kind": "sqlite"},
        "stream": {"kind": "kafka", "brokers": brokers, "options": options},
    }
    (root / "featurestore.yaml").write_text(json.dumps(config))
    (root / "specs.yaml").write_text(specs)
    return root


def stream_some(root: Path) -> int:
    """Push two events, stream them, and return the sum online."""
    with FeatureStore(root) as store:
        store.apply()
        rows = [{"customer": "C", "at": "2026-01-01T00:00:00Z", "amount": n} for n in (3, 4)]
        assert len(store.push("events", rows).accepted) == 2
        store.drain()
        assert store.status()[0]["lag_offline"]
        answer = store.get_online_features(["spending.amount_sum_lifetime"], [{"customer": "C"}])
        return int(answer.to_dicts()[0]["amount_sum_lifetime"])


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_project_streams_with_a_password(
    mechanism: str, sasl_broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    root = make(tmp_path, sasl_broker, sasl(mechanism, password="${KAFKA_PASSWORD}"))
    before = 0 if mechanism == "PLAIN" else 7
    assert stream_some(root) == 7 + before


def test_a_project_streams_over_tls(tls_broker: str, certificates: Path, tmp_path: Path) -> None:
    assert stream_some(make(tmp_path, tls_broker, tls(certificates))) == 7


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_an_operators_error_within_seconds(
    mechanism: str, sasl_broker: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path, sasl_broker, sasl(mechanism, password="not-the-password"))
    with FeatureStore(root) as store:
        store.apply()
        started = time.monotonic()
        with pytest.raises(OperatorError, match=r"(?i)authentication fail") as error:
            store.drain()
        assert time.monotonic() - started < 10
    said = str(error.value)
    assert not error.value.retryable
    assert sasl_broker in said
    assert "sasl.password" in said
    assert "featurestore.yaml" in said
    assert "not-the-password" not in said + caplog.text


def test_a_certificate_of_a_stranger_is_an_operators_error_within_seconds(
    tls_broker: str, certificates: Path, tmp_path: Path
) -> None:
    root = make(tmp_path, tls_broker, tls(certificates, "stranger"))
    with FeatureStore(root) as store:
        store.apply()
        started = time.monotonic()
        with pytest.raises(OperatorError, match=r"certificate verify failed") as error:
            store.drain()
        assert time.monotonic() - started < 10
    assert not error.value.retryable
    assert "ssl.ca.location" in str(error.value)


def test_a_password_is_in_nothing_that_is_stored_shown_or_logged(
    sasl_broker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    caplog.set_level(logging.DEBUG)
    root = make(tmp_path, sasl_broker, sasl("PLAIN", password="${KAFKA_PASSWORD}"))
    verbs = [
        ["validate"],
        ["plan"],
        ["apply"],
        ["stream", "--drain"],
        ["status"],
        ["list"],
        ["show", "events"],
        ["show", "spending"],
    ]
    for verb in verbs:
        for flags in ([], ["--json"]):
            assert main(["-C", str(root), *verb, *flags]) == 0, verb
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err + caplog.text
    for file in stored(root):
        assert SECRET.encode() not in file.read_bytes(), file


def stored(root: Path) -> Iterator[Path]:
    yield from (file for file in root.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.pem", "security.protocol", "my_secret"])
def test_security_in_a_declaration_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    specs = SPECS.replace("{topic: events}", f"{{topic: events, options: {{{name}: x}}}}")
    root = make(tmp_path, "127.0.0.1:1", {}, specs)
    with FeatureStore(root) as store, pytest.raises(SpecError) as error:
        store.compiled()
    assert f"specs.yaml:9: stream: options: {name}: '{name}' belongs to the project's settings" in str(
        error.value
    )
