"""One attempt to POST a notification over HTTP, signed where it can be, without following redirects.

Nothing that this module says or raises contains the path of the URL, a header's value or the secret: a path
is often as good as a password, and errors end up in logs.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.delivery.attempt import Attempt as Attempt
from engine.delivery.attempt import failure_text
from engine.errors import BadConfig

DELIVERY_HEADER = "X-Tidegauge-Delivery"
TIMESTAMP_HEADER = "X-Tidegauge-Timestamp"
SIGNATURE_HEADER = "X-Tidegauge-Signature"

_OWN_HEADERS = ("content-type", "content-length", "transfer-encoding", "host", "connection", "user-agent")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_URL = re.compile(r"[\x21-\x7e]+")


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of X-Tidegauge-Signature: HMAC-SHA256 of ``timestamp.body`` under ``secret``."""
    digest = hmac.new(secret.encode(), timestamp.encode("ascii") + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


class WebhookSender:
    """Sends to the URL of ``channel``; raises BadConfig where no request can be made of its settings.

    ``form``: makes the request's body of the notification's JSON; by default that is the body.  ``tls``: what
    to trust, by default the certificate authorities of the machine.  One thread at a time.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        form: Callable[[bytes], bytes] = lambda body: body,
        content_type: str = "application/json",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._channel, self._form, self._content_type = channel, form, content_type
        whole_url = channel.url or ""
        try:
            url = urlsplit(whole_url)
            port = url.port
        except ValueError:
            raise self._refusal("the URL cannot be read") from None
        if url.scheme not in ("http", "https") or not url.hostname or not _URL.fullmatch(whole_url):
            raise self._refusal("the URL needs http:// or https://, a host, and ASCII characters without spaces")
        if url.username is not None or url.password is not None:
            raise self._refusal("the URL holds a user name or a password, want an authorization header instead")
        self._host, self._port = url.hostname, port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._shown = channel.shown_url
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
            sent = self._form(body)
            connection.request("POST", self._path, sent, self._headers(delivery, sent, now_ns))
            answer = connection.getresponse()
            return _attempt(answer.status, answer.getheader("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            return Attempt(False, error=f"{_failure(error, self._channel)} ({self._shown})")
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
            "Content-Type": self._content_type,
            "User-Agent": "Tidegauge",
            "Connection": "close",
            DELIVERY_HEADER: delivery,
            TIMESTAMP_HEADER: timestamp,
        }
        if self._channel.secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._channel.secret, timestamp, body)
        return headers


def _failure(error: Exception, channel: Channel) -> str:
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, OSError):
        return failure_text(error, channel.timeout)
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
