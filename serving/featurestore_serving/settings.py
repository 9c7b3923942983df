"""The service's settings, each with its environment variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.errors import OperatorError


@dataclass(frozen=True)
class Settings:
    """Limits of a request, and who may ask.

    `token` is what clients send as `Authorization: Bearer …` for everything under `/v1`; None: nobody is
    asked. It travels in clear text: put TLS in front.
    """

    max_body_bytes: int = 16 * 1024 * 1024
    max_rows: int = 10_000
    max_wait_seconds: float = 60.0
    push_threads: int = 32  # pushes at once; more of them queue
    drain_seconds: float = 65.0  # how long requests may take to end after a stop
    token: str | None = None

    @staticmethod
    def read(environ: Mapping[str, str]) -> Settings:
        """Return the settings that FEATURESTORE_TOKEN, _MAX_BODY_BYTES and _MAX_ROWS name.

        Raises OperatorError on a limit that is no positive whole number.
        """
        return Settings(
            max_body_bytes=_whole(environ, "FEATURESTORE_MAX_BODY_BYTES", Settings.max_body_bytes),
            max_rows=_whole(environ, "FEATURESTORE_MAX_ROWS", Settings.max_rows),
            token=environ.get("FEATURESTORE_TOKEN") or None,
        )


def _whole(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise OperatorError(f"'{text}' is no positive whole number.", where=name)
    return int(text)
