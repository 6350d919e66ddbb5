"""Who may do what: bearer tokens, compared by their hash.

Without configured tokens everything is open, which the configuration allows on loopback only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from api.asgi import Scope, header, query_of
from api.errors import Forbidden, Unauthorized
from engine.config import Token

_WRITE_PATHS = (
    "/write",
    "/api/v2/write",
    "/api/v3/write_lp",
    "/v1/ingest",
    "/api/v1/write",
    "/v1/import/prometheus",
)
_OPEN_PATHS = ("/health/live", "/health/ready", "/ping")


class Gate:
    """Checks the token of every request."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tuple(tokens)

    def check(self, scope: Scope) -> None:
        """Raise Unauthorized or Forbidden unless the request carries a token with the scope its path needs."""
        if not self._tokens or scope["path"] in _OPEN_PATHS:
            return
        needed = needed_scope(scope["method"], scope["path"])
        presented = _presented(scope)
        if not presented:
            raise Unauthorized(f"cannot {scope['method']} {scope['path']}: want a token in the Authorization header")
        digest = hashlib.sha256(presented.encode()).hexdigest()
        for token in self._tokens:
            if hmac.compare_digest(digest, token.sha256):
                if needed not in token.scopes and "admin" not in token.scopes:
                    raise Forbidden(f"cannot {scope['method']} {scope['path']}: the token lacks the scope {needed!r}")
                return
        raise Unauthorized(f"cannot {scope['method']} {scope['path']}: the token is not known")


def needed_scope(method: str, path: str) -> str:
    """Return the scope that a path needs."""
    if path in _WRITE_PATHS:
        return "write"
    if path.endswith("/ack"):
        return "ack"
    if method in ("GET", "HEAD") or path == "/v1/sql":
        return "read"
    if path == "/v1/silences" or path.startswith("/v1/silences/"):
        return "ack"
    return "admin"


def _presented(scope: Scope) -> str:
    """Return the token in the forms that Influx clients and ours send it, or the empty string."""
    scheme, _, value = header(scope, b"authorization").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    key = header(scope, b"x-api-key")
    return key or (query_of(scope).get("p", "") if scope["path"] == "/write" else "")
