"""What came of one attempt to deliver, and a failed connection in our own words."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Protocol

from engine.config_units import Duration


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt.  ``error``: a clause for people, None when wholly delivered.

    ``status``: of the receiver's answer, None without one.  ``retry_after_ns``: how long it asks to wait.
    """

    delivered: bool
    status: int | None = None
    error: str | None = None
    retry_after_ns: int | None = None


class Sender(Protocol):
    """What can carry a notification to one channel."""

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        """Try once; a failure is an answer, not an exception."""


def failure_text(error: OSError, timeout: Duration) -> str:
    """Return what went wrong with a connection; the library's words may quote what was sent or received."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout.text}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or 'the handshake failed'}"
    if isinstance(error, socket.gaierror):
        return f"the name of the host is not known: {error.strerror}"
    return f"no connection: {error.strerror or type(error).__name__}"
