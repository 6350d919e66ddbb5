"""One attempt to POST a notification to a webhook, signed, without following redirects.

Nothing that this module says or raises contains the path of the URL, a header's value or the secret: a path
is often as good as a password, and errors end up in logs.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.errors import BadConfig

DELIVERY_HEADER = "X-Tidegauge-Delivery"
TIMESTAMP_HEADER = "X-Tidegauge-Timestamp"
SIGNATURE_HEADER = "X-Tidegauge-Signature"

_OWN_HEADERS = ("content-type", "content-length", "transfer-encoding", "host", "connection", "user-agent")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_URL = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt.  ``error``: a clause for people, None when delivered.

    ``status``: of the receiver's answer, None without one.  ``retry_after_ns``: how long it asks to wait.
    """

    delivered: bool
    status: int | None = None
    error: str | None = None
    retry_after_ns: int | None = None


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of X-Tidegauge-Signature: HMAC-SHA256 of ``timestamp.body`` under ``secret``."""
    digest = hmac.new(secret.encode(), timestamp.encode("ascii") + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


class WebhookSender:
    """Sends to the URL of ``channel``; raises BadConfig where no request can be made of its settings.

    ``tls``: what to trust, by default the certificate authorities of the machine.  One thread at a time.
    """

    def __init__(self, channel: Channel, *, tls: ssl.SSLContext | None = None) -> None:
        self._channel = channel
        try:
            url = urlsplit(channel.url)
            port = url.port
        except ValueError:
            raise self._refusal("the URL cannot be read") from None
        if url.scheme not in ("http", "https") or not url.hostname or not _URL.fullmatch(channel.url):
            raise self._refusal("the URL needs http:// or https://, a host, and ASCII characters without spaces")
        if url.username is not None or url.password is not None:
            raise self._refusal("the URL holds a user name or a password, want an authorization header instead")
        self._host, self._port = url.hostname, port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self._shown = f"{url.scheme}://{shown_host}" + ("" if port is None else f":{port}")
        self._tls = (tls or ssl.create_default_context()) if url.scheme == "https" else None
        for name, value in channel.headers.items():
            if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
                raise self._refusal(f"the header {name!r} has a character that no header may have")
            if name.lower() in _OWN_HEADERS or name.lower().startswith("x-tidegauge-"):
                raise self._refusal(f"the header {name!r} is set by Tidegauge itself")

    def _refusal(self, cause: str) -> BadConfig:
        return BadConfig(f"cannot notify channel {self._channel.name!r}: {cause}")

    def __repr__(self) -> str:
        return f"WebhookSender(channel={self._channel.name!r}, to={self._shown!r})"

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        """POST ``body`` once under the key ``delivery``; every failure is told in the answer, none is raised.

        A status of 200 to 299 is a delivery.  The channel's timeout counts for each step: connecting,
        sending, and waiting for the status line.
        """
        connection = self._connection()
        try:
            connection.request("POST", self._path, body, self._headers(delivery, body, now_ns))
            answer = connection.getresponse()
            return _attempt(answer.status, answer.getheader("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            return Attempt(False, error=f"{self._failure(error)} ({self._shown})")
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        seconds = self._channel.timeout.seconds
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        return http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._tls)

    def _headers(self, delivery: str, body: bytes, now_ns: int) -> dict[str, str]:
        timestamp = str(now_ns // NS_PER_SECOND)
        headers = {
            **self._channel.headers,
            "Content-Type": "application/json",
            "User-Agent": "Tidegauge",
            "Connection": "close",
            DELIVERY_HEADER: delivery,
            TIMESTAMP_HEADER: timestamp,
        }
        if self._channel.secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._channel.secret, timestamp, body)
        return headers

    def _failure(self, error: Exception) -> str:
        """Return what went wrong in our own words; the library's may quote what was sent or received."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self._channel.timeout.text}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"no TLS connection: {error.reason or 'the handshake failed'}"
        if isinstance(error, socket.gaierror):
            return f"the name of the host is not known: {error.strerror}"
        if isinstance(error, http.client.RemoteDisconnected):
            return "the connection was closed without an answer"
        if isinstance(error, OSError):
            return f"no connection: {error.strerror or type(error).__name__}"
        return f"the answer is not HTTP: {type(error).__name__}"


def _attempt(status: int, retry_after: str | None) -> Attempt:
    if 200 <= status < 300:
        return Attempt(True, status)
    error = f"the answer was {status}"
    if 300 <= status < 400:
        error = f"the answer was {status}, and redirects are not followed: the channel needs the final URL"
    # The other form, a date, would need the receiver's clock to be right.
    seconds = int(retry_after) if retry_after is not None and re.fullmatch(r"[0-9]{1,9}", retry_after) else None
    return Attempt(False, status, error, None if seconds is None else seconds * NS_PER_SECOND)
